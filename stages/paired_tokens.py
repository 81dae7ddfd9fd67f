"""Which token artifact belongs to which dataset: they are given in the same order, and looked up by shard name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import PrecheckError

if TYPE_CHECKING:
    from data_pipelines.training_index import SourceFolders


def check_pairs(kind: str, inputs: Mapping[str, Any]) -> None:
    """See that a stage's slots `datasets` and `tokens` are of one length. Raises: PrecheckError."""
    num_datasets, num_tokens = len(inputs.get("datasets", ())), len(inputs.get("tokens", ()))
    if num_datasets != num_tokens:
        raise PrecheckError(
            f"{kind}: {num_datasets} datasets but {num_tokens} token artifacts; "
            "give one for each dataset, in the same order"
        )


def pair_tokens(kind: str, datasets: Sequence[Path], tokens: Sequence[Path]) -> "list[SourceFolders]":
    """Datasets with the tokens that were made of them, in the recipe's order.

    Raises: PrecheckError if their numbers differ, or two datasets with a shard of one name share their tokens.
    """
    from data_pipelines.dataset_reader import CuratedDataset
    from data_pipelines.training_index import SourceFolders

    check_pairs(kind, {"datasets": datasets, "tokens": tokens})
    named: dict[tuple[Path, str], Path] = {}
    for dataset, folder in zip(datasets, tokens, strict=True):
        for shard in CuratedDataset(dataset).shards:
            other = named.setdefault((folder, shard), dataset)
            if other != dataset:
                raise PrecheckError(
                    f"{kind}: the datasets {other} and {dataset} both have a shard {shard!r} and share one token "
                    "artifact; tokenize each in a stage of its own, or give their sources different file names"
                )
    return [SourceFolders(dataset=dataset, tokens=folder) for dataset, folder in zip(datasets, tokens, strict=True)]
