"""Datasets as pairs of image and mask."""
