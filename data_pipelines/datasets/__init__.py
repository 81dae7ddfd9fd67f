"""Curated datasets on disk: records, samples, ledgers, reasons of verdicts, tombstones, and their readers."""
