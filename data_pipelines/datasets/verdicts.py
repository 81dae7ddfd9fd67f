"""Verdicts of curation and the columns of a ledger that hold them."""

VERDICTS = ("keep", "drop", "duplicate", "near_duplicate", "mirrored")  # what curation says of a record
LEDGER_COLUMNS = ("width", "height", "image_bytes")  # of which `column_figures` tells, about what is kept
COLUMN_METRICS = ("count", "nullCount", "sum", "min", "max")  # in the words of OpenLineage's facet of data quality
