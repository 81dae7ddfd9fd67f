"""Tar and compressed files: reading them safely, writing reproducible tars."""
