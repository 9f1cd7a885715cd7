"""Pictures in, class ids out."""
