"""A network against a dataset."""
