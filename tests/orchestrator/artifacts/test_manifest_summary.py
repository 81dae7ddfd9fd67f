import pytest

from orchestrator.artifact import FileEntry
from orchestrator.artifacts.manifest_summary import artifact_fields, counted_rows
from tests.orchestrator.conftest import example_artifact


@pytest.mark.parametrize(("rows", "expected"), [([], None), ([None, None], None), ([None, 0], 0), ([2, None, 3], 5)])
def test_only_files_whose_rows_are_counted_add_to_the_sum(rows: list[int | None], expected: int | None) -> None:
    files = [FileEntry(path=str(index), bytes=1, sha256="a" * 64, rows=count) for index, count in enumerate(rows)]
    assert counted_rows(files) == expected


def test_the_summary_has_sizes_and_metrics_under_their_persisted_names() -> None:
    manifest = example_artifact().manifest
    fields = artifact_fields(manifest, "d" * 64)
    assert fields["bytes"] == sum(file.bytes for file in manifest.files)
    assert fields["metrics"] == manifest.metrics
    assert (fields["fingerprint"], fields["manifest_sha256"]) == (manifest.fingerprint, "d" * 64)
