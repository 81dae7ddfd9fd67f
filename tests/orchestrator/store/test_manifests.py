import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.artifact import FileEntry, Fingerprint, Manifest
from orchestrator.errors import CorruptArtifactError, NewerFormatError
from orchestrator.store.manifests import manifest_from_bytes, manifest_to_bytes

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
PATHS = st.lists(
    st.text("abcXYZ019._-é ", min_size=1, max_size=6).filter(lambda part: part not in (".", "..")), min_size=1
)
FILES = st.builds(
    FileEntry,
    path=PATHS.map("/".join),
    bytes=st.integers(0, 2**50),
    sha256=DIGESTS,
    rows=st.none() | st.integers(0, 2**40),
)
MANIFESTS = st.builds(
    Manifest,
    kind=TEXT,
    stage_kind=TEXT,
    fingerprint=DIGESTS.map(Fingerprint),
    payload=st.dictionaries(TEXT, JSON_VALUES, max_size=4),
    files=st.lists(FILES, max_size=4, unique_by=lambda file: file.path).map(tuple),
    metrics=st.dictionaries(TEXT, st.floats(allow_nan=False), max_size=4),
    shards=st.lists(DIGESTS, max_size=3).map(tuple),
    inputs=st.dictionaries(TEXT, st.lists(DIGESTS, max_size=2).map(tuple), max_size=2),
    provenance=st.dictionaries(TEXT, JSON_VALUES, max_size=3),
)
EXAMPLE = Manifest(
    kind="dataset@1",
    stage_kind="curate",
    fingerprint=Fingerprint("ab" * 32),
    payload={},
    files=(FileEntry(path="a", bytes=1, sha256="cd" * 32),),
    metrics={},
)


@given(MANIFESTS)
def test_a_manifest_survives_the_store_and_has_one_text(manifest: Manifest) -> None:
    data = manifest_to_bytes(manifest)
    assert manifest_from_bytes(data, "here") == manifest
    assert manifest_to_bytes(manifest_from_bytes(data, "here")) == data


def spoiled(**changes: Any) -> bytes:
    return json.dumps(json.loads(manifest_to_bytes(EXAMPLE)) | changes).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "here: found 0 bytes that are not JSON"),
        (b"[]", "here: found a JSON list, expected an object"),
        (spoiled(format="1"), "here: format: found '1', expected 1"),
        (spoiled(fingerprint="../../x"), "here: fingerprint: found '../../x', expected 64 hexadecimal digits"),
        (spoiled(kind=3), "here: kind: found '3', expected text"),
        (spoiled(payload=[]), "here: payload: found '[]', expected an object"),
        (spoiled(stats={"a": "12"}), "here: stats.a: found '12', expected a number"),
        (spoiled(stats={"a": True}), "here: stats.a: found 'True', expected a number"),
        (spoiled(stats={"a": 10**400}), "expected a number"),
        (spoiled(shards=["a", 1]), "here: shards: found \"['a', 1]\", expected a list of texts"),
        (spoiled(inputs={"slot": "x"}), "here: inputs.slot: found 'x', expected a list of texts"),
        (spoiled(files={}), "here: files: found '{}', expected a list"),
        (spoiled(files=[1]), "here: files[0]: found '1', expected an object"),
        (
            spoiled(files=[{"path": "a", "bytes": 1.0, "sha256": "cd" * 32}]),
            "files[0].bytes: found '1.0', expected",
        ),
        (spoiled(files=[{"path": "a", "bytes": 1, "sha256": "cd"}]), "expected a SHA-256 of 64 digits"),
        (spoiled(files=[{"path": "/a", "bytes": 1, "sha256": "cd" * 32}]), "expected parts joined by single '/'"),
        (spoiled(files=[{"path": "a/../b", "bytes": 1, "sha256": "cd" * 32}]), "expected parts joined by single '/'"),
        (spoiled(files=[{"path": "a", "bytes": 1, "sha256": "cd" * 32}] * 2), "expected each path once"),
    ],
)
def test_an_invalid_manifest_is_refused_with_the_wrong_field(data: bytes, message: str) -> None:
    with pytest.raises(CorruptArtifactError) as caught:
        manifest_from_bytes(data, "here")
    assert message in str(caught.value)


def test_a_manifest_of_a_newer_format_is_not_called_damaged() -> None:
    with pytest.raises(NewerFormatError, match="here: found format 2, expected 1; read it with the version of illume"):
        manifest_from_bytes(spoiled(format=2, files=3), "here")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_a_named_error(data: bytes) -> None:
    with pytest.raises((CorruptArtifactError, NewerFormatError), match=r"^here: "):
        manifest_from_bytes(data, "here")


@given(st.dictionaries(st.sampled_from(sorted(json.loads(manifest_to_bytes(EXAMPLE)))), JSON_VALUES, min_size=1))
def test_any_field_replaced_by_any_json_is_accepted_or_a_named_error(changes: dict[str, Any]) -> None:
    assert refusal(spoiled(**changes)).startswith(("here: ", "accepted"))


def refusal(data: bytes) -> str:
    try:
        manifest_from_bytes(data, "here")
    except (CorruptArtifactError, NewerFormatError) as error:
        return str(error)
    return "accepted"
