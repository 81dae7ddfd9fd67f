"""Which token artifact belongs to which dataset. Codes are looked up by the name of the dataset's shard."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import PrecheckError

if TYPE_CHECKING:
    from data_pipelines.training_data.index import SourceFolders


def check_pairs(kind: str, inputs: Mapping[str, Any]) -> None:
    """See that a stage's slot `tokens` can cover its slot `datasets`. Raises: PrecheckError."""
    num_datasets, num_tokens = len(inputs.get("datasets", ())), len(inputs.get("tokens", ()))
    if num_tokens not in (1, num_datasets):
        raise PrecheckError(
            f"{kind}: {num_datasets} datasets but {num_tokens} token artifacts; "
            "give one for each dataset, in the same order, or one that was made of all of them"
        )


def pair_tokens(kind: str, datasets: Sequence[Path], tokens: Sequence[Path]) -> "list[SourceFolders]":
    """Datasets with the tokens that were made of them, in the recipe's order.

    Raises: PrecheckError if their numbers do not fit, or two datasets with a shard of one name share their tokens.
    """
    from data_pipelines.datasets.reader import CuratedDataset
    from data_pipelines.training_data.index import SourceFolders

    check_pairs(kind, {"datasets": datasets, "tokens": tokens})
    folders = tokens if len(tokens) == len(datasets) else list(tokens) * len(datasets)
    named: dict[tuple[Path, str], Path] = {}
    for dataset, folder in zip(datasets, folders, strict=True):
        for shard in CuratedDataset(dataset).shards:
            other = named.setdefault((folder, shard), dataset)
            if other != dataset:
                raise PrecheckError(
                    f"{kind}: the datasets {other} and {dataset} both have a shard {shard!r} and share one token "
                    "artifact; tokenize each in a stage of its own, or give their sources different file names"
                )
    return [SourceFolders(dataset=dataset, tokens=folder) for dataset, folder in zip(datasets, folders, strict=True)]
