"""Vector files of the published code against this one: `python -m models.check FILE.json ...`."""
