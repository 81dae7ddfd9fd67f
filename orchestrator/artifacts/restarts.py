"""Where a training begins that takes the place of one whose data were taken down: at its newest clean checkpoint.

A takedown records that checkpoint, so it follows from records which one a plan chooses, and it is part of the identity
of the new training. Rule: a checkpoint is clean only if every takedown since its training was planned says so.
"""

from collections.abc import Iterable, Mapping, Sequence

from orchestrator.artifact import JSON, ArtifactKey, Manifest
from orchestrator.artifacts.takedowns import Restart, Takedown
from orchestrator.store.commits import head
from orchestrator.store.layout import checkpoint_site
from orchestrator.store.store import Store

CONTINUES = "continues"  # key of an identity: the checkpoint that the training begins with, of another training


def with_restart(payload: Mapping[str, JSON], restart: Restart) -> dict[str, JSON]:
    """The identity of a training that begins with this checkpoint instead of step 0."""
    begin: dict[str, JSON] = {
        "fingerprint": restart.fingerprint,
        "step": restart.step,
        "manifest_sha256": restart.manifest_sha256,
    }
    return {**payload, CONTINUES: begin}


def restart_in(payload: Mapping[str, JSON] | None) -> Restart | None:
    """The checkpoint that a training of this identity begins with; None: it begins at step 0."""
    found = (payload or {}).get(CONTINUES)
    if payload is None or not isinstance(found, dict):
        return None
    step = found.get("step")
    return Restart(
        stage_kind=str(payload.get("kind")),
        fingerprint=str(found.get("fingerprint")),
        step=step if isinstance(step, int) else 0,
        manifest_sha256=str(found.get("manifest_sha256")),
    )


def clean_restart(takedowns: Sequence[Takedown], fingerprint: str) -> Restart | None:
    """The newest checkpoint of a training that all of these takedowns show to be clean; None: one of them does not.

    What a checkpoint saw, later ones saw too, so the earliest that a takedown names counts.
    """
    found: Restart | None = None
    for takedown in takedowns:
        restart = takedown.restart_of(fingerprint)
        if restart is None and not takedown.shows_clean(fingerprint):
            return None
        if restart is not None and (found is None or restart.step < found.step):
            found = restart
    return found


def has_restart(store: Store, restart: Restart) -> bool:
    """Whether the checkpoint is still there; its files are verified when it is used."""
    commit = head(store, checkpoint_site(restart.key, restart.step)).commit
    return commit is not None and commit.record.get("manifest_sha256") == restart.manifest_sha256


def awaited_restarts(takedowns: Sequence[Takedown], manifests: Iterable[Manifest]) -> set[tuple[ArtifactKey, int]]:
    """(training, step) of the checkpoints that a training may still begin with; `manifests`: of all artifacts."""
    named = {(restart.key, restart.step) for takedown in takedowns for restart in takedown.restarts}
    if not named:
        return named
    used = (restart_in(manifest.payload) for manifest in manifests)
    done = {restart.fingerprint for restart in used if restart is not None}
    return {(key, step) for key, step in named if key.fingerprint not in done}
