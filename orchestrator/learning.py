"""What a stage kind declares about learned outputs: what it learned from, and which models can be used together.

`illume trace`, `takedown` and `generate` ask these declarations, whoever wrote the kind.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)

Samples = Mapping[str, tuple[str, ...]]  # sample id -> digests of the contents that it refers to, in its order


@dataclass(frozen=True, kw_only=True)
class Exposures:
    """Which steps of a training consumed which samples."""

    num_steps: int  # that the training has done
    steps: Mapping[str, Sequence[int]]  # sample id -> the steps that consumed it, ascending, counted from 0
    # Step of a kept checkpoint -> whether one of the samples was consumed before it. Those left out: as `steps` say.
    checkpoints: Mapping[int, bool] = field(default_factory=dict)

    def is_in_checkpoint(self, step: int) -> bool:
        seen = any(found < step for steps in self.steps.values() for found in steps)
        return self.checkpoints.get(step, seen)


class Training(Protocol[C_co]):
    """A training that has ended or begun, as `Learned.exposures` sees it. Implemented by `illume trace`."""

    @property
    def config(self) -> C_co: ...
    @property
    def first_step(self) -> int:
        """The step of the checkpoint of another training that it began with; the steps before are not its own."""

    def inputs(self, slot: str, only: Callable[[str], bool] | None = None) -> tuple[Path, ...]:
        """Folders of the artifacts that it read; with `only`, of a remote store no more than the files it selects."""

    def output(self, only: Callable[[str], bool] | None = None) -> Path | None:
        """Folder of its artifact; None: it has not ended."""

    def checkpoint_files(self, name: str) -> Mapping[int, bytes]:
        """The content of a file in each kept checkpoint that has it, by step, oldest first."""

    def index(self, make: Callable[[Path], object]) -> Path:
        """A folder for what is worth keeping between two questions; `make` fills it when there is none yet."""


@dataclass(frozen=True, kw_only=True)
class Learned(Generic[C]):
    """Declares that a stage's output is learned: single samples cannot be taken out of it again.

    A takedown marks such an artifact as tainted and keeps it, where it deletes others; `illume trace` lists it.
    """

    from_samples: bool = True  # False: only from the models among its inputs, as an export, or from elsewhere
    # Which steps consumed which of the samples. None: unknown, so it counts as having seen whatever its inputs contain.
    exposures: Callable[[Training[C], Samples], Exposures] | None = None
    is_model: bool = True  # False: part of one, such as a vocabulary; kept like a model, but not listed as one


PROVENANCE_LEARNED = "learned"  # key of a manifest's provenance: {"from_samples": ..., "is_model": ...} of `Learned`
OUTPUT = ""  # in `Serving.models`, in place of an input slot: the stage's own output


@dataclass(frozen=True, kw_only=True)
class Serving(Generic[C]):
    """Declares which models belong together and can be used once they exist, for example by `illume generate`."""

    models: Mapping[str, str]  # role in use -> input slot that holds the model, or `OUTPUT`
    settings: Callable[[C], object] | None = None  # how the configuration says that they are used; None: it does not
