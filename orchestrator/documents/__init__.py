"""JSON and YAML documents: strict typed reading, keys that were renamed, the nearest valid name."""
