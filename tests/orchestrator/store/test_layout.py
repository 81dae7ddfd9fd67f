import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.artifact import ArtifactKey
from orchestrator.errors import StoreError
from orchestrator.store.layout import (
    ARTIFACTS,
    SHARDS,
    artifact_site,
    checkpoint_site,
    checkpoint_steps,
    new_attempt_id,
    owner_of,
    shard_site,
    stored_keys,
)
from tests.orchestrator.conftest import MemoryStore

KEY = ArtifactKey("curate", "ab" * 32)
FOLDER = f"curate/ab/{KEY.fingerprint}"


def test_every_generation_of_a_site_has_its_own_record() -> None:
    artifact, shard = artifact_site(KEY), shard_site(KEY)
    assert [artifact.commit_key(number) for number in (0, 1)] == [
        f"artifacts/{FOLDER}/COMMIT",
        f"artifacts/{FOLDER}/COMMIT.1",
    ]
    assert [shard.commit_key(number) for number in (0, 1)] == [f"shards/{FOLDER}.json", f"shards/{FOLDER}.1.json"]
    assert artifact.retracted_key(1) == f"artifacts/{FOLDER}/COMMIT.1.RETRACTED"
    assert artifact.data_key("a1") == f"artifacts/{FOLDER}/attempts/a1/data"
    assert checkpoint_site(KEY, 7).manifest_key("a1") == (
        f"artifacts/{FOLDER}/checkpoints/000000000007/attempts/a1/MANIFEST.json"
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (ArtifactKey("curate", "ab"), "found fingerprint 'ab', expected 64 hexadecimal digits"),
        (ArtifactKey("curate", "../" + "a" * 61), "expected 64 hexadecimal digits"),
        (ArtifactKey("../up", "ab" * 32), "found stage kind '../up', expected a name without '/'"),
    ],
)
def test_a_key_that_could_leave_its_folder_is_refused(key: ArtifactKey, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        artifact_site(key)


def test_an_attempt_id_with_a_slash_is_refused() -> None:
    with pytest.raises(StoreError, match="attempt id 'a/b': expected no '/'"):
        shard_site(KEY).outcome_key("a/b")


@given(st.text("abcdef0123456789-", min_size=1, max_size=40))
def test_the_owner_of_a_new_id_is_the_stage_attempt(owner: str) -> None:
    assert owner_of(new_attempt_id(owner)) == owner


@pytest.mark.parametrize(
    "attempt", ["20260101-120000-abcdef-clean-1-2", "plain", "a-0123456789abcde", "a-0123456789abcdefg"]
)
def test_the_id_of_a_stage_attempt_is_its_own_owner(attempt: str) -> None:
    assert owner_of(attempt) == attempt


def test_listing_skips_folders_that_are_not_named_like_a_fingerprint(memory_store: MemoryStore) -> None:
    other = ArtifactKey("curate", "cd" * 32)
    for name in (f"{FOLDER}/COMMIT", f"curate/ab/{other.fingerprint}/COMMIT", "curate/ab/notes/x", "README"):
        memory_store.put_new(f"{ARTIFACTS}/{name}", b"")
    assert list(stored_keys(memory_store, ARTIFACTS)) == [KEY]
    assert list(stored_keys(memory_store, SHARDS)) == []


def test_steps_are_listed_by_number(memory_store: MemoryStore) -> None:
    for step in (100, 20, 3):
        memory_store.put_new(checkpoint_site(KEY, step).commit_key(0), b"")
    memory_store.put_new(f"artifacts/{FOLDER}/checkpoints/notes/x", b"")
    assert checkpoint_steps(memory_store, KEY) == [3, 20, 100]
