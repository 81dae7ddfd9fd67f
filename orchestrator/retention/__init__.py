"""Retention: garbage, unneeded artifacts, pins, removal of tainted files, local copies."""
