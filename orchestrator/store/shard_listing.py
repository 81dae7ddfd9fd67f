"""Lists the shards of a stage kind a thousand objects at a time, instead of asking for each shard by itself.

What a listing shows is enough to say which record of a shard counts and which files its attempts have. Whatever looks
unusual is left to the caller, who asks about that one shard.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import count

from orchestrator.artifact import ArtifactKey
from orchestrator.backends.objects import StoredObject
from orchestrator.backends.parallel import parallel_map, request_threads
from orchestrator.store.layout import is_fingerprint, shards_folder
from orchestrator.store.store import Store

_DIGITS = "0123456789abcdef"
PREFIXES = tuple(f"{first}{second}" for first in _DIGITS for second in _DIGITS)
_RECORD = re.compile(r"([0-9a-fA-F]{64})(?:\.([1-9][0-9]*))?\.json(\.RETRACTED(?:\.[1-9][0-9]*)?)?")


@dataclass(kw_only=True, slots=True)
class ListedShard:
    """The objects of one shard."""

    key: ArtifactKey
    records: set[int] = field(default_factory=set)  # generations that have a commit record
    retracted: set[int] = field(default_factory=set)
    attempts: dict[str, list[StoredObject]] = field(default_factory=dict)  # all objects of each attempt

    @property
    def generation(self) -> int:
        """The first one that is not retracted; it is committed if it is in `records`, else open."""
        return next(number for number in count() if number not in self.records or number not in self.retracted)

    @property
    def is_committed(self) -> bool:
        return self.generation in self.records


def list_shards(store: Store, stage_kind: str, prefixes: Collection[str] = PREFIXES) -> Iterator[list[ListedShard]]:
    """The shards of a stage kind whose fingerprints begin with one of these two digits, prefix by prefix."""

    def list_prefix(prefix: str) -> list[ListedShard]:
        return listed(stage_kind, prefix, store.list(f"{shards_folder(stage_kind)}/{prefix}"))

    yield from parallel_map(list_prefix, sorted(prefixes), threads=request_threads(is_local=store.is_local))


def listed(stage_kind: str, prefix: str, objects: Iterator[StoredObject]) -> list[ListedShard]:
    """The shards to which the objects below a prefix belong, by fingerprint."""
    folder = f"{shards_folder(stage_kind)}/{prefix}/"
    found: dict[str, ListedShard] = {}

    def shard(fingerprint: str) -> ListedShard:
        if fingerprint not in found:
            found[fingerprint] = ListedShard(key=ArtifactKey(stage_kind, fingerprint))
        return found[fingerprint]

    for item in objects:
        first, _, rest = item.key[len(folder) :].partition("/")
        if rest:
            if is_fingerprint(first):
                attempt = rest.partition("/")[0]
                shard(first).attempts.setdefault(attempt, []).append(item)
        elif match := _RECORD.fullmatch(first):
            fingerprint, generation, retracted = match.groups()
            (shard(fingerprint).retracted if retracted else shard(fingerprint).records).add(int(generation or 0))
    return [found[fingerprint] for fingerprint in sorted(found)]
