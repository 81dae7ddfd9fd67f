"""Curation: measuring images, judging records, finding copies and contamination, writing the kept shards."""
