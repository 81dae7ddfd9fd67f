"""Scores of images, computed by models from local folders, and the tables that hold them."""
