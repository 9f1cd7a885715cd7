"""Checkpoints: files, and their way here."""
