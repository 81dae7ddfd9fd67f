"""Masks secrets in text and in plain JSON data.

Applied where text leaves the process: the records of the store (`store.record_bytes`), the events of the database, the
formatter of all logs, and the streams of a terminal. Two sources say what is a secret: the table of `formats.py`, which
is the same everywhere, and the secrets that this process holds (its environment, passwords of addresses). Identities
use only the first (`mask_config`), as they must not depend on an environment.
"""

import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from orchestrator.artifact import JSON
from orchestrator.redaction.formats import (
    ADDRESS_PASSWORD,
    ASSIGNMENT,
    CAMEL_CASE,
    HEADER,
    MASK,
    NAME_PART,
    OPAQUE,
    OPTION,
    PRIVATE_KEY_BEGIN,
    PRIVATE_KEY_END,
    QUERY_SECRET,
    SECRET_NAME,
    SECRET_VARIABLE,
    TOKENS,
)

_DIGEST = re.compile("[0-9a-f]*")  # holds no token of a known form: each has other characters
MIN_DIGEST_CHARACTERS = 32  # shorter hexadecimal digits are few enough to be cached
MAX_CACHED_CHARACTERS = 256
_PLAIN = frozenset({bool, int, float, type(None)})
MIN_KNOWN_CHARACTERS = 8  # a shorter secret of the environment would mask words


class _KnownSecrets:
    """The secrets that this process holds, as one pattern. Thread-safe."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.version = 0  # counts the changes
        self._lock = threading.Lock()
        self._has_read_environment = False

    def add(self, values: Iterable[str]) -> None:
        new = {value for value in values if _may_be_known(value)}
        with self._lock:
            if new - self._values:
                self._values |= new
                longest_first = sorted(self._values, key=len, reverse=True)
                self._pattern = re.compile("|".join(map(re.escape, longest_first)))
                self.version += 1

    def mask(self, text: str) -> str:
        if not self._has_read_environment:
            self._has_read_environment = True
            self.add(value for name, value in os.environ.items() if SECRET_VARIABLE.search(name))
        return text if self._pattern is None else self._pattern.sub(MASK, text)


_known = _KnownSecrets()


def remember_secret(value: str) -> None:
    """Mask this value from now on, wherever it appears in what this process writes."""
    _known.add([value])


def mask_text(text: str) -> str:
    """`text` with every secret replaced by `***`. Masking twice changes nothing."""
    if len(text) > MAX_CACHED_CHARACTERS or (len(text) >= MIN_DIGEST_CHARACTERS and _DIGEST.fullmatch(text)):
        return mask_formats(_known.mask(text))
    return _mask_short_text(text, _known.version)


@lru_cache(maxsize=8192)  # as `_mask_known_text`
def _mask_short_text(text: str, _version: int) -> str:
    return _mask_forms(_known.mask(text))


def mask_secrets(value: JSON) -> JSON:
    """Plain data with every secret replaced by `***`; text under a name like `api_key` is a secret as a whole."""
    return _mask(value, mask_text)


def mask_config(value: JSON) -> JSON:
    """As `mask_secrets`, but the same in every process: for identities and plans."""
    return _mask(value, mask_formats)


def mask_formats(text: str) -> str:
    """`text` without the secrets that are known by their form or by the name before them."""
    if _DIGEST.fullmatch(text):
        return text
    return _mask_known_text(text) if len(text) <= MAX_CACHED_CHARACTERS else _mask_forms(text)


def _mask_forms(text: str) -> str:
    if "-----BEGIN" in text:
        text = _mask_private_keys(text)
    if "://" in text:
        text = ADDRESS_PASSWORD.sub(_keep_before(f":{MASK}@"), text)
    if ("=" in text or ":" in text or "--" in text) and NAME_PART.search(text):
        text = QUERY_SECRET.sub(_keep_before(MASK), text)
        text = HEADER.sub(_keep_before(MASK), text)
        text = ASSIGNMENT.sub(_mask_assignment, text)
        text = OPTION.sub(_keep_before(MASK), text)
    for parts, pattern in TOKENS.values():
        if any(part in text for part in parts):
            text = pattern.sub(MASK, text)
    return text


_mask_known_text = lru_cache(maxsize=8192)(_mask_forms)  # records repeat their names, ids and paths a million times


def _may_be_known(value: str) -> bool:
    """Whether a value can be masked wherever it appears: neither a word nor a path of the machine."""
    is_word = value.isalpha() and len(value) < 2 * MIN_KNOWN_CHARACTERS
    return len(value) >= MIN_KNOWN_CHARACTERS and not is_word and not value.startswith("/")


def _keep_before(replacement: str) -> Callable[[re.Match[str]], str]:
    return lambda match: match["before"] + replacement


def _mask_assignment(match: re.Match[str]) -> str:
    quote = match["quote"] or ""
    return f"{match['before']}{quote}{MASK}{quote}"


def _mask_private_keys(text: str) -> str:
    """Also a key whose end is missing, as text may be cut."""
    parts: list[str] = []
    position = 0
    for begin in PRIVATE_KEY_BEGIN.finditer(text):
        if begin.start() < position:
            continue
        end = PRIVATE_KEY_END.search(text, begin.end())
        parts += [text[position : begin.start()], MASK]
        position = end.end() if end else len(text)
    return "".join([*parts, text[position:]])


def _mask(value: JSON, mask: Callable[[str], str]) -> JSON:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {
            mask(name): item if type(item) in _PLAIN else _mask_named(name, item, mask) for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [item if type(item) in _PLAIN else _mask(item, mask) for item in value]
    return value


@lru_cache(maxsize=8192)
def _is_secret_name(name: str) -> bool:
    return bool(SECRET_NAME.search(CAMEL_CASE.sub("_", name)))


def _mask_named(name: str, value: JSON, mask: Callable[[str], str]) -> JSON:
    """The value of a name; under a secret name all text is secret, at any depth."""
    if _is_secret_name(name):
        return _mask_all(value)
    if isinstance(value, str) and name.lower() == "token" and OPAQUE.fullmatch(value):
        return MASK
    return _mask(value, mask)


def _mask_all(value: JSON) -> JSON:
    if isinstance(value, str):
        return MASK if value else value
    if isinstance(value, list | tuple):
        return [_mask_all(item) for item in value]
    return {name: _mask_all(item) for name, item in value.items()} if isinstance(value, dict) else value


def mask_mapping(fields: Mapping[str, JSON]) -> dict[str, JSON]:
    """`mask_secrets` of a mapping."""
    masked = mask_secrets(dict(fields))
    assert isinstance(masked, dict), "masking keeps the shape of a mapping"
    return masked
