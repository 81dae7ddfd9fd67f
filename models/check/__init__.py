"""Compares this code with vector files of the published code: `python -m models.check FILE.json ...`."""
