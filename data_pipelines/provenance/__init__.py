"""Provenance: search for samples and images in the ledgers of datasets and in token files."""
