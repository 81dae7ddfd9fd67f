"""Where everything lies in a store: one function for each kind of key, and nothing else knows the layout.

    artifacts/<kind>/<fp[:2]>/<fp>/COMMIT, attempts/<attempt>/{data/..., MANIFEST.json, OUTCOME}
    artifacts/<kind>/<fp[:2]>/<fp>/checkpoints/<step>/COMMIT, attempts/<attempt>/...
    shards/<kind>/<sfp[:2]>/<sfp>.json, <sfp>/<attempt>/{data/..., OUTCOME}
    plans/<digest>.json   runs/<run>/RUN.json, events-<epoch>-<seq>.jsonl

A commit record that turned out damaged or was given up is never changed: `<record>.RETRACTED` is put beside it and the
next generation (`COMMIT.1`, `<sfp>.1.json`) takes its place.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from string import hexdigits
from typing import Literal

from orchestrator.errors import StoreError
from orchestrator.store.store import Store

ARTIFACTS, SHARDS, PLANS, RUNS = "artifacts", "shards", "plans", "runs"
STEP_DIGITS = 12  # so that folders of steps sort by number


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place where exactly one attempt in each generation gets committed."""

    what: Literal["artifact", "checkpoint", "shard"]
    attempts: str  # folder with one folder for each attempt
    stem: str  # key of the commit record, without its generation and suffix
    suffix: str = ""

    def commit_key(self, generation: int) -> str:
        return f"{self.stem}.{generation}{self.suffix}" if generation else f"{self.stem}{self.suffix}"

    def retracted_key(self, generation: int) -> str:
        return f"{self.commit_key(generation)}.RETRACTED"

    def attempt_key(self, attempt: str) -> str:
        if "/" in attempt:
            raise StoreError(f"attempt id {attempt!r}: expected no '/'")
        return f"{self.attempts}/{attempt}"

    def data_key(self, attempt: str) -> str:
        return f"{self.attempt_key(attempt)}/data"

    def manifest_key(self, attempt: str) -> str:
        return f"{self.attempt_key(attempt)}/MANIFEST.json"

    def outcome_key(self, attempt: str) -> str:
        return f"{self.attempt_key(attempt)}/OUTCOME"


def artifact_site(stage_kind: str, fingerprint: str) -> Site:
    folder = _folder(ARTIFACTS, stage_kind, fingerprint)
    return Site(what="artifact", attempts=f"{folder}/attempts", stem=f"{folder}/COMMIT")


def checkpoints_folder(stage_kind: str, fingerprint: str) -> str:
    return f"{_folder(ARTIFACTS, stage_kind, fingerprint)}/checkpoints"


def checkpoint_site(stage_kind: str, fingerprint: str, step: int) -> Site:
    folder = f"{checkpoints_folder(stage_kind, fingerprint)}/{step:0{STEP_DIGITS}d}"
    return Site(what="checkpoint", attempts=f"{folder}/attempts", stem=f"{folder}/COMMIT")


def shard_site(stage_kind: str, fingerprint: str) -> Site:
    folder = _folder(SHARDS, stage_kind, fingerprint)
    return Site(what="shard", attempts=folder, stem=folder, suffix=".json")


def new_attempt_id(owner: str) -> str:
    """A fresh id for what a stage attempt commits on the way (a shard, a checkpoint); `owner_of` gives the attempt."""
    return f"{owner}-{uuid.uuid4().hex[:16]}"


def owner_of(attempt: str) -> str:
    """The stage attempt that an id belongs to; the id itself where it is that of a stage attempt."""
    owner, dash, nonce = attempt.rpartition("-")
    return owner if dash and len(nonce) == 16 and all(char in hexdigits for char in nonce) else attempt


def stored_fingerprints(store: Store, top: str) -> Iterator[tuple[str, str]]:
    """(stage kind, fingerprint) of every folder below `artifacts` or `shards` that is named like one."""
    for stage_kind in store.folders(top):
        for prefix in store.folders(f"{top}/{stage_kind}"):
            for fingerprint in store.folders(f"{top}/{stage_kind}/{prefix}"):
                if fingerprint[:2] == prefix and is_fingerprint(fingerprint):
                    yield stage_kind, fingerprint


def checkpoint_steps(store: Store, stage_kind: str, fingerprint: str) -> list[int]:
    """Steps that have a checkpoint folder, committed or not, oldest first."""
    names = store.folders(checkpoints_folder(stage_kind, fingerprint))
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def is_fingerprint(text: str) -> bool:
    return len(text) == 64 and all(char in hexdigits for char in text)


def _folder(top: str, stage_kind: str, fingerprint: str) -> str:
    if not is_fingerprint(fingerprint):
        raise StoreError(f"{top}/{stage_kind}: found fingerprint {fingerprint!r}, expected 64 hexadecimal digits")
    if "/" in stage_kind:
        raise StoreError(f"{top}: found stage kind {stage_kind!r}, expected a name without '/'")
    return f"{top}/{stage_kind}/{fingerprint[:2]}/{fingerprint}"
