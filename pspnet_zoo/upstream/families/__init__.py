"""Converters, one for each project whose checkpoints are read."""
