"""Ingest: source files of every format become shards of records with content ids."""
