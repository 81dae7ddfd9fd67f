"""What scores pictures, and how a curation uses the scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from data_pipelines.curation.config import CurationConfig
from data_pipelines.scoring.bounds import MEASURED_SCORES, check_score_name
from orchestrator.artifact import JSON, Artifact
from orchestrator.errors import PrecheckError
from orchestrator.recipe.suggestions import expectation
from orchestrator.shards import Shard
from orchestrator.stage import Location


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """One score. The bytes of the model's files, not their place, decide what it says.

    `similarity`: the cosine of picture and caption, -1..1, from a model like CLIP or SigLIP. `aesthetic`: a linear head
    on the picture's features from such a model. `classifier`: the probability of a label, 0..1.
    """

    name: str  # of the score, in tables, bounds and ledgers
    kind: Literal["similarity", "aesthetic", "classifier"]
    model: Location  # folder: config.json, preprocessor, safetensors; for similarity also its tokenizer
    head: Location = Location("")  # of aesthetic: safetensors with weight [1, D] and bias [1]
    label: str = ""  # of classifier: as the model's config.json calls it
    embed: bool = False  # of similarity: keep the embeddings, for `semantic_distance` of a curation

    def __post_init__(self) -> None:
        check_score_name(self.name)
        for field, kind in (("head", "aesthetic"), ("label", "classifier")):
            if bool(getattr(self, field)) != (self.kind == kind):
                found = "found one" if getattr(self, field) else "missing"
                raise ValueError(f"{field}: {found}; expected with kind {kind}, and with no other")
        if self.embed and self.kind != "similarity":
            raise ValueError(f"embed: only a scorer of the kind similarity keeps embeddings, this one is {self.kind}")


@dataclass(frozen=True, kw_only=True)
class ScoreImagesConfig:
    scorers: tuple[ScorerConfig, ...]
    batch: int = 32  # pictures, and captions, that a model sees at once
    precision: Literal["fp32", "bf16"] = "fp32"
    decode_threads: int = 2  # of each worker; pictures are decoded while others are looked at
    max_pixels: int = 100_000_000  # of a picture that is decoded at all
    max_file_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        names = [scorer.name for scorer in self.scorers]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"scorers: found the names {names}, expected at least one, and each once")
        if sum(scorer.embed for scorer in self.scorers) > 1:
            raise ValueError("scorers: more than one keeps embeddings; a curation could not tell which to compare")
        for name in ("batch", "decode_threads", "max_pixels", "max_file_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}; expected at least 1")


def check_use_of_scores(config: CurationConfig, inputs: Mapping[str, Any]) -> None:
    """Raises: PrecheckError if the scores of a curation's inputs are not those that its config speaks of."""
    scoring: Sequence[ScoreImagesConfig] = inputs.get("scores", ())
    scorers = [scorer for found in scoring for scorer in found.scorers]
    names = [scorer.name for scorer in scorers]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PrecheckError(f"curate: two of its inputs both make the score {twice[0]!r}; give one another name")
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
    """An ingested shard with the tables of its scores: their bytes in its identity, their places in its work.

    Raises: PrecheckError if one of the artifacts has none.
    """
    found: dict[str, tuple[Path, str]] = {}
    for artifact in scores:
        entries = [entry for entry in artifact.manifest.files if _is_table_of(entry.path, shard.name)]
        if not entries:
            raise PrecheckError(
                f"the scores {artifact.path} know nothing of the shard {shard.name!r}; let score_images read all the "
                "records that are curated"
            )
        found |= {entry.path: (artifact.path / entry.path, entry.sha256) for entry in entries}
    places: list[JSON] = [str(place) for place, _ in found.values()]
    digests: JSON = {path: digest for path, (_, digest) in found.items()}
    identity = {**shard.identity, "scores": digests} if scores else shard.identity
    return replace(shard, identity=identity, work={**shard.work, "scores": places})


def tables_of(shard: Mapping[str, JSON]) -> list[Path]:
    """The tables in the work of a shard."""
    places = shard["scores"]
    assert isinstance(places, list), "put there by `with_scores`"
    return [Path(str(place)) for place in places]


def _is_table_of(path: str, shard: str) -> bool:
    parts = Path(path).parts
    return len(parts) == 3 and parts[0] == "scores" and parts[2] == f"{shard}.parquet"
