"""Data sets as pairs of picture and mask."""
