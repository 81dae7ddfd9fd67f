"""Readers: one per format of source files, each of which yields the units of a file in input order."""
