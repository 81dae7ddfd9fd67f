"""The layout of a store: one function for each kind of key. No other module knows the layout.

    artifacts/<kind>/<fp[:2]>/<fp>/COMMIT, attempts/<attempt>/{CLAIM, data/..., MANIFEST.json, OUTCOME, FENCE}
    artifacts/<kind>/<fp[:2]>/<fp>/checkpoints/<step>/COMMIT, attempts/<attempt>/...
    shards/<kind>/<sfp[:2]>/<sfp>.json, <sfp>/<attempt>/{data/..., OUTCOME}
    shards/<kind>/packs/<map>/<sha256>.jsonl   copies of many shard records, to read them with one request
    plans/<digest>.json   runs/<run>/RUN.json, epochs/<epoch>.json, events-<epoch>-<seq>.jsonl
    uses/<attempt>/<nonce>.json   what an attempt uses, until that follows from its artifact
    changes/<time>-<nonce>.json   who changed what outside of runs
    queue/<what>/<subject>/<number>.json   the queue; its keys are made in `orchestrator/queue/records.py`

A commit record is never changed. To retract it, `<record>.RETRACTED` is written next to it, and the next generation
(`COMMIT.1`, `<sfp>.1.json`) replaces it. A retraction that does not count (see `fences.py`) is followed by
`<record>.RETRACTED.1`.
"""

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from string import hexdigits
from typing import Literal

from orchestrator.artifact import ArtifactKey
from orchestrator.backends.objects import IDENTITY as IDENTITY
from orchestrator.errors import StoreError
from orchestrator.store.store import Store

PACKS = "packs"  # in the folder of a stage kind's shards
ARTIFACTS, SHARDS, PLANS, RUNS, USES = "artifacts", "shards", "plans", "runs", "uses"
CHANGES, EXPOSURES = "changes", "exposures"
FOLDERS, MARKER = "folders", "STORE"  # see store_identity.py
_FINGERPRINT = re.compile("[0-9a-fA-F]{64}")
STEP_DIGITS = 12  # zero-padded, so that folders of steps sort by number


@dataclass(frozen=True, kw_only=True)
class Site:
    """The keys of one artifact, shard or checkpoint; exactly one attempt of each generation gets committed there."""

    what: Literal["artifact", "checkpoint", "shard"]
    attempts: str  # folder that has one folder for each attempt
    stem: str  # key of the commit record, without its generation and suffix
    suffix: str = ""
    owners: str = ""  # folder of the stage attempts whose fences decide which records here count; "": all count

    @property
    def key(self) -> ArtifactKey:
        """Of the artifact, of the shard, or of the artifact that the checkpoint belongs to."""
        _, stage_kind, _, fingerprint, *_ = self.attempts.split("/")
        return ArtifactKey(stage_kind, fingerprint)

    def commit_key(self, generation: int) -> str:
        return f"{self.stem}.{generation}{self.suffix}" if generation else f"{self.stem}{self.suffix}"

    def retracted_key(self, generation: int, number: int = 0) -> str:
        """Key of a retraction of a generation; there is more than one only if earlier ones do not count."""
        return f"{self.commit_key(generation)}.RETRACTED{f'.{number}' if number else ''}"

    def attempt_key(self, attempt: str) -> str:
        if "/" in attempt:
            raise StoreError(f"attempt id {attempt!r}: expected no '/'")
        return f"{self.attempts}/{attempt}"

    def claim_key(self, attempt: str) -> str:
        return f"{self.attempt_key(attempt)}/CLAIM"

    def data_key(self, attempt: str) -> str:
        return f"{self.attempt_key(attempt)}/data"

    def manifest_key(self, attempt: str) -> str:
        return f"{self.attempt_key(attempt)}/MANIFEST.json"

    def outcome_key(self, attempt: str) -> str:
        return f"{self.attempt_key(attempt)}/OUTCOME"


def artifact_site(key: ArtifactKey) -> Site:
    folder = _folder(ARTIFACTS, key)
    return Site(what="artifact", attempts=f"{folder}/attempts", stem=f"{folder}/COMMIT")


def checkpoints_folder(key: ArtifactKey) -> str:
    return f"{_folder(ARTIFACTS, key)}/checkpoints"


def checkpoint_site(key: ArtifactKey, step: int) -> Site:
    folder = f"{checkpoints_folder(key)}/{step:0{STEP_DIGITS}d}"
    owners = artifact_site(key).attempts
    return Site(what="checkpoint", attempts=f"{folder}/attempts", stem=f"{folder}/COMMIT", owners=owners)


def shard_site(key: ArtifactKey) -> Site:
    folder = _folder(SHARDS, key)
    return Site(what="shard", attempts=folder, stem=folder, suffix=".json")


def shards_folder(stage_kind: str) -> str:
    """Folder of all shards of a stage kind, in one folder for each of the first two digits of a fingerprint."""
    return f"{SHARDS}/{stage_kind}"


def packs_folder(stage_kind: str, map_id: str = "") -> str:
    """Folder of the packs of one map, or of all maps of a stage kind."""
    return f"{SHARDS}/{stage_kind}/{PACKS}{f'/{map_id}' if map_id else ''}"


def new_attempt_id(owner: str) -> str:
    """A fresh id for a shard or checkpoint that the stage attempt `owner` commits; `owner_of` is the inverse."""
    return f"{owner}-{uuid.uuid4().hex[:16]}"


def owner_of(attempt: str) -> str:
    """The stage attempt of an id from `new_attempt_id`; any other id is a stage attempt's and returned unchanged."""
    owner, dash, nonce = attempt.rpartition("-")
    return owner if dash and len(nonce) == 16 and all(char in hexdigits for char in nonce) else attempt


def stored_keys(store: Store, top: str) -> Iterator[ArtifactKey]:
    """The keys of all folders below `top` (`artifacts` or `shards`) whose names are fingerprints."""
    for stage_kind in store.folders(top):
        for prefix in store.folders(f"{top}/{stage_kind}"):
            for fingerprint in store.folders(f"{top}/{stage_kind}/{prefix}"):
                if fingerprint[:2] == prefix and is_fingerprint(fingerprint):
                    yield ArtifactKey(stage_kind, fingerprint)


@dataclass(frozen=True, kw_only=True)
class StoredPlace:
    """What an object belongs to."""

    what: Literal["artifact", "checkpoint", "shard", "record"]  # record: of plans, runs, takedowns, pins, uses, ...
    stage_kind: str = ""
    fingerprint: str = ""  # empty for shards, whose artifacts are many
    step: int | None = None  # of a checkpoint


def stored_place(key: str) -> StoredPlace:
    """What the object at a key belongs to."""
    parts = key.split("/")
    if parts[0] == SHARDS and len(parts) > 2:
        return StoredPlace(what="shard", stage_kind=parts[1])
    if parts[0] != ARTIFACTS or len(parts) < 5:
        return StoredPlace(what="record")
    _, stage_kind, _, fingerprint, below, *rest = parts
    if below == "checkpoints" and rest and rest[0].isdecimal():
        return StoredPlace(what="checkpoint", stage_kind=stage_kind, fingerprint=fingerprint, step=int(rest[0]))
    return StoredPlace(what="artifact", stage_kind=stage_kind, fingerprint=fingerprint)


def checkpoint_steps(store: Store, key: ArtifactKey) -> list[int]:
    """Steps that have a checkpoint folder, committed or not, oldest first."""
    names = store.folders(checkpoints_folder(key))
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def is_fingerprint(text: str) -> bool:
    return bool(_FINGERPRINT.fullmatch(text))


def _folder(top: str, key: ArtifactKey) -> str:
    if not is_fingerprint(key.fingerprint):
        raise StoreError(
            f"{top}/{key.stage_kind}: found fingerprint {key.fingerprint!r}, expected 64 hexadecimal digits"
        )
    if "/" in key.stage_kind:
        raise StoreError(f"{top}: found stage kind {key.stage_kind!r}, expected a name without '/'")
    return f"{top}/{key.stage_kind}/{key.fingerprint[:2]}/{key.fingerprint}"
