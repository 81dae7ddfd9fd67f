"""Descriptions of a dataset for publication: Croissant metadata, dataset card, licences."""
