"""Where the data of a training are: the folders of its datasets, each with those of its tokens."""

from dataclasses import dataclass
from pathlib import Path

from data_pipelines.datasets.files import file_of


@dataclass(frozen=True, kw_only=True)
class SourceFolders:
    """The folders of a curated dataset and, if its images are training targets, of its tokens."""

    dataset: Path
    tokens: Path | None = None  # folder of the artifact `tokens@1`

    def token_shard(self, shard: str) -> Path:
        assert self.tokens is not None, "token shard of a dataset without tokens"
        return file_of(self.tokens, token_name(shard))


def token_name(shard: str) -> str:
    return f"tokens/{shard}.parquet"
