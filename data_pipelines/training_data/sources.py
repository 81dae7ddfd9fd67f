"""Where the data of a training are: the folders of its datasets, each with those of its tokens."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class SourceFolders:
    """The folders of a curated dataset and, if its images are training targets, of its tokens."""

    dataset: Path
    tokens: Path | None = None  # folder of the artifact `tokens@1`

    def token_shard(self, shard: str) -> Path:
        assert self.tokens is not None, "token shard of a dataset without tokens"
        return self.tokens / "tokens" / f"{shard}.parquet"
