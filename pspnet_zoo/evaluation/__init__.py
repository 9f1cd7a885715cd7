"""Evaluation of a network on a dataset."""
