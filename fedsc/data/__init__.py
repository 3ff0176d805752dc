"""Expression data: reading, validating, genes, preprocessing, named and synthetic sets."""
