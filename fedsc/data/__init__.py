"""Expression data: reading, validating, gene vocabularies, preprocessing, named and synthetic sets."""
