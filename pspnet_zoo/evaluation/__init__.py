"""A network against a data set."""
