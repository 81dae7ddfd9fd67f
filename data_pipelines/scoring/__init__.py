"""Scores of images by models given as local folders, and their tables."""
