"""Other projects' files as ours."""
