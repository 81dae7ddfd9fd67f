"""What a recipe may say: every key of every stage kind, read from the configuration classes and their source."""
