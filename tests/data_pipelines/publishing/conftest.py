"""The curated dataset of the audit's tests, described for publication."""

from tests.data_pipelines.audit.conftest import dataset as dataset
