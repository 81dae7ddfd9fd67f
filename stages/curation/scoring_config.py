"""Config of the models that score images, and checks and inputs for a curation that uses the scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from data_pipelines.curation.config import CurationConfig
from data_pipelines.scoring.bounds import MEASURED_SCORES, check_score_name
from orchestrator.artifact import JSON, Artifact
from orchestrator.documents.suggestions import expectation
from orchestrator.errors import PrecheckError
from orchestrator.shards import Shard
from orchestrator.stage import Execution, Location


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """One score. The bytes of the model's files, not their location, are part of its identity.

    `similarity`: the cosine of image and caption, -1..1, from a model like CLIP or SigLIP. `aesthetic`: a linear head
    on the image's features from such a model. `classifier`: the probability of a label, 0..1.
    """

    name: str  # of the score, in tables, bounds and ledgers
    kind: Literal["similarity", "aesthetic", "classifier"]
    model: Location  # folder: config.json, preprocessor, safetensors; for similarity also its tokenizer
    head: Location = Location("")  # of aesthetic: safetensors with weight [1, D] and bias [1]
    label: str = ""  # of classifier: one of the labels in the model's config.json
    embed: bool = False  # of similarity: keep the embeddings, for `semantic_distance` of a curation

    def __post_init__(self) -> None:
        check_score_name(self.name)
        for field, kind in (("head", "aesthetic"), ("label", "classifier")):
            if bool(getattr(self, field)) != (self.kind == kind):
                found = "found one" if getattr(self, field) else "missing"
                raise ValueError(f"{field}: {found}; expected with kind {kind}, and with no other kind")
        if self.embed and self.kind != "similarity":
            raise ValueError(f"embed: only a scorer of the kind similarity keeps embeddings, this one is {self.kind}")


@dataclass(frozen=True, kw_only=True)
class ScoreImagesConfig:
    scorers: tuple[ScorerConfig, ...]
    batch: int = 32  # images, and captions, in one forward pass of a model
    precision: Literal["fp32", "bf16"] = "fp32"
    max_pixels: int = 100_000_000  # larger images are not decoded
    max_file_bytes: int = 64 << 20
    RENAMED_KEYS: ClassVar[Mapping[str, str]] = {"decode_threads": "execution.decode_threads"}

    def __post_init__(self) -> None:
        names = [scorer.name for scorer in self.scorers]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"scorers: found the names {names}, expected at least one, and each once")
        if sum(scorer.embed for scorer in self.scorers) > 1:
            raise ValueError("scorers: found more than one with embed: true, expected at most one")
        for name in ("batch", "max_pixels", "max_file_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class ScoreImagesExecution(Execution):
    decode_threads: int = 2  # of each worker; images are decoded while others are scored

    def __post_init__(self) -> None:
        if self.decode_threads < 1:
            raise ValueError(f"decode_threads: {self.decode_threads}; expected at least 1")


def check_use_of_scores(config: CurationConfig, inputs: Mapping[str, Any]) -> None:
    """Raises: PrecheckError if the inputs of a curation do not make the scores that its config names."""
    scoring: Sequence[ScoreImagesConfig] = inputs.get("scores", ())
    scorers = [scorer for found in scoring for scorer in found.scorers]
    names = [scorer.name for scorer in scorers]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PrecheckError(f"curate: two of its inputs both make the score {twice[0]!r}; rename one of them")
    known = [*names, *MEASURED_SCORES]
    for name in sorted(config.score_bounds):
        if name not in known:
            raise PrecheckError(
                f"curate: score_bounds.{name}: none of its inputs makes this score; {expectation(name, known)}"
            )
    num_embedding = sum(scorer.embed for scorer in scorers)
    if config.semantic_distance is not None and num_embedding != 1:
        raise PrecheckError(
            f"curate: semantic_distance needs embeddings, but {num_embedding} scorers of its `scores` inputs keep "
            "them; expected one with embed: true"
        )


def with_scores(shard: Shard, scores: Sequence[Artifact]) -> Shard:
    """The shard with the tables of its scores: their digests in its identity, their paths in its work.

    Raises: PrecheckError if one of the artifacts has no table for the shard.
    """
    found: dict[str, tuple[Path, str]] = {}
    for artifact in scores:
        entries = [entry for entry in artifact.manifest.files if _is_table_of(entry.path, shard.name)]
        if not entries:
            raise PrecheckError(
                f"the scores {artifact.path} have no table for the shard {shard.name!r}; let score_images read all "
                "records that are curated"
            )
        found |= {entry.path: (artifact.path / entry.path, entry.sha256) for entry in entries}
    paths: list[JSON] = [str(path) for path, _ in found.values()]
    digests: JSON = {path: digest for path, (_, digest) in found.items()}
    identity = {**shard.identity, "scores": digests} if scores else shard.identity
    return replace(shard, identity=identity, work={**shard.work, "scores": paths})


def score_tables(shard: Mapping[str, JSON]) -> list[Path]:
    """Paths of the score tables in the work of a shard."""
    paths = shard["scores"]
    assert isinstance(paths, list), "written by `with_scores`"
    return [Path(str(path)) for path in paths]


def _is_table_of(path: str, shard: str) -> bool:
    parts = Path(path).parts
    return len(parts) == 3 and parts[0] == "scores" and parts[2] == f"{shard}.parquet"
