"""Tar and compressed files: reading them safely, writing tars of always the same bytes."""
