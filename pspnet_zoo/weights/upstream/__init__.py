"""Foreign checkpoints to ours, one module an upstream project."""
