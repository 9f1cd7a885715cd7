"""Images in, class ids out."""
