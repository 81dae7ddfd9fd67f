"""What the stage kind of an artifact declares about it, even if the kind is not known here any more."""

from dataclasses import dataclass

from orchestrator.artifact import JSON, Manifest
from orchestrator.learning import PROVENANCE_LEARNED
from orchestrator.recipe.loading import Kinds


@dataclass(frozen=True, kw_only=True)
class Declared:
    is_learned: bool = False  # single samples cannot be taken out of it again
    is_training: bool = False  # it learned from samples itself
    rows_name_samples: bool = False  # each row of its tables names its sample


def declared(manifest: Manifest, kinds: Kinds) -> Declared:
    """From the kind; or, if that is not loaded, from what was recorded when the artifact was made."""
    kind = kinds.get(manifest.stage_kind)
    if kind is None:
        return _from_record(manifest.provenance.get(PROVENANCE_LEARNED))
    return Declared(
        is_learned=kind.learned is not None,
        is_training=kind.learned is not None and kind.learned.from_samples,
        rows_name_samples=kind.rows_name_samples,
    )


def _from_record(recorded: JSON) -> Declared:
    if not isinstance(recorded, dict):
        return Declared()
    return Declared(is_learned=True, is_training=recorded.get("from_samples") is not False)
