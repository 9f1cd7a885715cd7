"""Facts about published checkpoints, and their names."""
