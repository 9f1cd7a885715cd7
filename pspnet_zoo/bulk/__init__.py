"""Images by the million, by Ray Data."""
