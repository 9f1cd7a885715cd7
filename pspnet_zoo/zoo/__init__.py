"""What is known of checkpoints."""
