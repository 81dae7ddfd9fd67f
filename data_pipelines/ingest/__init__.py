"""Ingest: source files of every format become shards of records, whose ids are digests of their content."""
