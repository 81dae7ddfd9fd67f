"""Records, datasets and tokens on the nodes of the workers that read them: shards of a remote store come when read."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from orchestrator.stage import NodeInputs, Slot


def is_shard(path: str) -> bool:
    """Whether a file of records, datasets, scores or tokens is one of many, of which a process reads some at a time."""
    return path.endswith((".tar", ".parquet"))


READ_AHEAD_STEPS = 4  # whose shards are on their way while a step is computed
DATASETS = Slot(kind="dataset@1", many=True, streamed=is_shard)
TOKENS = Slot(kind="tokens@1", many=True, streamed=is_shard)
OPTIONAL_DATASETS = Slot(kind="dataset@1", many=True, required=False, streamed=is_shard)
OPTIONAL_TOKENS = Slot(kind="tokens@1", many=True, required=False, streamed=is_shard)


KEPT_SHARE = 0.9  # of what a node keeps, for shards that stay; the rest for those that are read once


def open_inputs(inputs: NodeInputs, *, in_random_order: bool = False) -> None:
    """Let this process read the inputs of its stage on its node. Raises: PrecheckError: the node does not see them.

    `in_random_order`: samples are read again and again. Of shards that the node cannot keep, each is then read alone.
    """
    from data_pipelines.datasets.files import fetch_from

    inputs.open()
    not_kept = files_not_kept(inputs) if in_random_order else {}
    for folder in inputs.streamed:
        fetch_from(
            folder.place,
            folder.fetch,
            folder.open,
            read_part=folder.read,
            not_kept=not_kept.get(folder.place, {}),
        )


def files_not_kept(inputs: NodeInputs) -> Mapping[Path, Mapping[str, int]]:
    """Bytes of the shards of samples for which the node has no room, by folder: the same in all its processes.

    The least recently read one would make room for the next, and with samples in random order a whole shard would be
    fetched for nearly each of them. So as many as fit stay, chosen by the digests of their names, and the others never
    come as a whole.
    """
    sizes = [(folder.place, name, size) for folder in inputs.streamed for name, size in folder.sizes.items()]
    if sum(size for _, _, size in sizes) <= inputs.cache_bytes:
        return {}
    room = KEPT_SHARE * inputs.cache_bytes - sum(size for _, name, size in sizes if not name.endswith(".tar"))
    not_kept: dict[Path, dict[str, int]] = {}
    for place, name, size in sorted(
        sizes, key=lambda file: hashlib.sha256(f"{file[0].name}/{file[1]}".encode()).digest()
    ):
        if not name.endswith(".tar"):
            continue
        if size > room:
            not_kept.setdefault(place, {})[name] = size
        else:
            room -= size
    return not_kept
