"""Verdicts of curation and the columns of a ledger that hold them."""

VERDICTS = ("keep", "drop", "duplicate", "near_duplicate", "mirrored")  # of curation about a record
LEDGER_COLUMNS = ("width", "height", "image_bytes")  # that `column_metrics` reports, over the kept rows
COLUMN_METRICS = ("count", "nullCount", "sum", "min", "max")  # named as in OpenLineage's data quality facet
