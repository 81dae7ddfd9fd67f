from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backends.objects import check_key
from orchestrator.constraints import Key, Sha256, Size
from orchestrator.documents.typed_json import parse_record
from orchestrator.errors import CorruptArtifactError, StoreError
from orchestrator.identity import canonical_json


@dataclass(frozen=True, kw_only=True)
class Entry:
    path: Key = "a"
    sha256: Sha256 = "ab" * 32
    bytes: Size = 0


def refusal(**fields: object) -> str:
    try:
        parse_record(Entry, canonical_json(fields).encode(), "here")
    except CorruptArtifactError as error:
        return str(error)
    return ""


@given(st.text("a./\\\n\x1f\x85é", max_size=7))
def test_a_key_of_a_record_is_what_every_store_takes(key: str) -> None:
    parts = key.split("/")
    is_safe = not any(part in ("", ".", "..") for part in parts) and not any(char in "\\\n\x1f" for char in key)
    assert (refusal(path=key) == "") is is_safe
    if is_safe:
        assert check_key(key) == key
    else:
        with pytest.raises(StoreError, match="expected parts joined by single '/'"):
            check_key(key)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "../a"}, "here: path: found '../a', expected parts joined by single '/'"),
        ({"path": 1}, "here: path: found '1', expected parts joined by single '/'"),
        ({"sha256": "AB" * 32}, ""),
        ({"sha256": "ab" * 32 + "\n"}, "expected a SHA-256 of 64 digits"),
        ({"bytes": -1}, "here: bytes: found '-1', expected a whole number of at least 0"),
        ({"bytes": True}, "here: bytes: found 'True', expected a whole number of at least 0"),
        ({"bytes": 1.0}, "here: bytes: found '1.0', expected a whole number of at least 0"),
    ],
)
def test_a_value_outside_its_constraint_is_refused_with_what_was_expected(
    fields: dict[str, object], message: str
) -> None:
    assert message in refusal(**fields)
    assert bool(refusal(**fields)) is bool(message)
