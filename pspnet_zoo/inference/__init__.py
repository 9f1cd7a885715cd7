"""Segmentation of images: protocols, scores, predictions."""
