"""Steps and losses of training, and methods that train less of a network."""
