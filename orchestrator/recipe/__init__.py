"""Recipes: from YAML and overrides to checked stage specifications."""
