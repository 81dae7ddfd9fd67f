"""Matches token artifacts with the datasets they were made from. Codes are looked up by the dataset's shard name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import PrecheckError

if TYPE_CHECKING:
    from data_pipelines.training_data.sources import SourceFolders


def check_pairs(kind: str, inputs: Mapping[str, Any]) -> None:
    """Raises: PrecheckError if the slot `tokens` holds neither one artifact nor one for each of the slot `datasets`."""
    num_datasets, num_tokens = len(inputs.get("datasets", ())), len(inputs.get("tokens", ()))
    if num_tokens not in (1, num_datasets):
        raise PrecheckError(
            f"{kind}: {num_datasets} datasets but {num_tokens} token artifacts; "
            "give one for each dataset, in the same order, or one that was made from all of them"
        )


def pair_tokens(kind: str, datasets: Sequence[Path], tokens: Sequence[Path]) -> "list[SourceFolders]":
    """Each dataset with the tokens that were made from it, in the recipe's order.

    Raises: PrecheckError if their numbers do not match, or two datasets with a shard of the same name share tokens.
    """
    from data_pipelines.datasets.reader import CuratedDataset
    from data_pipelines.training_data.sources import SourceFolders

    check_pairs(kind, {"datasets": datasets, "tokens": tokens})
    folders = tokens if len(tokens) == len(datasets) else list(tokens) * len(datasets)
    owners: dict[tuple[Path, str], Path] = {}
    for dataset, folder in zip(datasets, folders, strict=True):
        for shard in CuratedDataset(dataset).shards:
            other = owners.setdefault((folder, shard), dataset)
            if other != dataset:
                raise PrecheckError(
                    f"{kind}: the datasets {other} and {dataset} both have a shard {shard!r} and share one token "
                    "artifact; tokenize each in a stage of its own, or give their sources different file names"
                )
    return [SourceFolders(dataset=dataset, tokens=folder) for dataset, folder in zip(datasets, folders, strict=True)]
