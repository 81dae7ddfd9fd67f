"""What the stages that make an index of training data, and those that read one, have in common."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from orchestrator.errors import PrecheckError
from orchestrator.shards import ShardRecord
from orchestrator.stage import StageContext

INDEX = "index"  # slot of a training


@dataclass(frozen=True, kw_only=True)
class PackedIndex:
    """A small index by value, as workers on other nodes do not see the folder of the driver that made it."""

    files: Mapping[str, bytes] = field(repr=False)  # by name

    @staticmethod
    def of(folder: Path) -> "PackedIndex":
        return PackedIndex(files={path.name: path.read_bytes() for path in sorted(folder.iterdir())})

    @contextmanager
    def unpacked(self) -> Iterator[Path]:
        """Its folder. What is open then, or mapped into memory, can be read after it."""
        with TemporaryDirectory(prefix="validation-index-") as folder:
            for name, content in self.files.items():
                Path(folder, name).write_bytes(content)
            yield Path(folder)


def digests_of(context: StageContext, slots: Sequence[str]) -> dict[Path, str]:
    """SHA-256 of every file of the artifacts in some slots, by where it is."""
    return {
        artifact.path / entry.path: entry.sha256
        for slot in slots
        for artifact in context.inputs(slot)
        for entry in artifact.manifest.files
    }


def refuse_quarantined(stage_id: str, records: Sequence[ShardRecord]) -> None:
    """Raises: DataError if a shard could not be indexed: without it, the order would be that of another dataset."""
    from models.errors import DataError

    failed = [f"{entry.item}: {entry.reason}" for record in records for entry in record.outcome.quarantined]
    if failed:
        raise DataError(f"{stage_id}: {len(failed)} shards cannot be indexed, the first is {failed[0]}")


def given_index(context: StageContext, slots: Sequence[str]) -> Path | None:
    """The folder of the index in the slot `index`; None: the training makes it itself.

    Raises: PrecheckError if it was made from other artifacts than the training reads in `slots`.
    """
    found = context.inputs(INDEX)
    if not found:
        return None
    made_from = found[0].manifest.inputs
    for slot in slots:
        if slot not in made_from:
            continue
        here = tuple(str(artifact.fingerprint) for artifact in context.inputs(slot))
        if tuple(map(str, made_from[slot])) != here:
            raise PrecheckError(
                f"{context.stage_id}: the index in the slot {INDEX!r} was made from other {slot} than this stage "
                "reads; give both the same inputs, or leave the slot empty"
            )
    return found[0].path


def check_index_config(kind: str, inputs: Mapping[str, Any], expected: object) -> None:
    """Raises: PrecheckError if the stage in the slot `index` makes the index of other data than the training's."""
    found = inputs.get(INDEX)
    if found is not None and found != expected:
        names = [name for name, value in vars(expected).items() if vars(found).get(name) != value]
        raise PrecheckError(
            f"{kind}: the stage in the slot {INDEX!r} has another {', '.join(names)} than this stage needs "
            f"({', '.join(f'{name}: {vars(expected)[name]}' for name in names)}); make them equal, or leave the slot "
            "empty"
        )
