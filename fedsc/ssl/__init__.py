"""Self-supervised objectives, one a file, and what they share."""
