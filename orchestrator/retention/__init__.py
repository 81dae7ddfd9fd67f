"""What a store keeps and what may be deleted: garbage, unneeded and tainted artifacts, pins, local copies."""
