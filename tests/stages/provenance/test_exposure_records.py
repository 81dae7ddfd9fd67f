"""What a training learned from is told from its record, also where it continues another one."""

from pathlib import Path

import pytest

from orchestrator.artifacts.takedowns import Restart
from orchestrator.errors import CorruptArtifactError
from orchestrator.store.store import Store, open_store
from stages.provenance.exposure_records import UnknownExposureError, find_record, put_record, record_key, steps_before
from tests.orchestrator.conftest import MemoryStore

A, B, C = (letter * 64 for letter in "abc")
PICTURE = "1" * 64
OLD, NEW = "5" * 64, "6" * 64
BEGIN = Restart(stage_kind="train", fingerprint=OLD, step=3, manifest_sha256="m" * 64)


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path) if request.param == "local" else MemoryStore()


def test_samples_are_found_by_id_and_by_any_image_and_others_were_never_consumed(store: Store) -> None:
    put_record(store, OLD, 9, [[(A, (PICTURE, "2" * 64), [1, 5])], [], [(B, (), [4])]])
    record = find_record(store, OLD)
    assert record is not None
    found = record.exposures(frozenset({B, PICTURE, C}))
    assert (found.num_steps, dict(found.steps)) == (9, {A: [1, 5], B: [4]})
    assert [found.is_in_checkpoint(step) for step in (1, 2)] == [False, True]
    assert record.exposures(frozenset({C})).steps == record.exposures(frozenset()).steps == {}
    assert record.exposures(frozenset({A, B}), before=4).steps == {A: [1]}
    put_record(store, OLD, 1, [[(C, (), [0])]])  # the first one stays
    assert record.exposures(frozenset({C})).steps == {}


def test_the_steps_before_a_clean_checkpoint_are_those_of_the_training_that_it_is_of(store: Store) -> None:
    put_record(store, NEW, 9, [[(A, (), [7])]], restart=BEGIN)
    record = find_record(store, NEW)
    assert record is not None
    with pytest.raises(UnknownExposureError, match="its first 3 steps were done by 555555555555, whose data are gone"):
        record.exposures(frozenset({A}))
    put_record(store, OLD, 6, [[(A, (), [1, 5]), (B, (PICTURE,), [2])]])
    assert record.exposures(frozenset({A, PICTURE})).steps == {A: [1, 7], B: [2]}
    assert steps_before(store, NEW, 8, frozenset({A})) == {A: [1, 7]}


def test_a_record_that_cannot_be_read_is_an_error_and_not_a_clean_model(store: Store) -> None:
    store.put_new(record_key(OLD), b"no table")
    record = find_record(store, OLD)
    assert record is not None
    with pytest.raises(CorruptArtifactError, match=rf"{OLD}.parquet: cannot be read"):
        record.exposures(frozenset({A}))
