"""Records, datasets and tokens on the nodes of the workers that read them: shards of a remote store come when read."""

from orchestrator.stage import NodeInputs, Slot


def is_shard(path: str) -> bool:
    """Whether a file of records, datasets, scores or tokens is one of many, of which a process reads some at a time."""
    return path.endswith((".tar", ".parquet"))


READ_AHEAD_STEPS = 4  # whose shards are on their way while a step is computed
DATASETS = Slot(kind="dataset@1", many=True, streamed=is_shard)
TOKENS = Slot(kind="tokens@1", many=True, streamed=is_shard)
OPTIONAL_DATASETS = Slot(kind="dataset@1", many=True, required=False, streamed=is_shard)
OPTIONAL_TOKENS = Slot(kind="tokens@1", many=True, required=False, streamed=is_shard)


def open_inputs(inputs: NodeInputs) -> None:
    """Let this process read the inputs of its stage on its node. Raises: PrecheckError: the node does not see them."""
    from data_pipelines.datasets.files import fetch_from

    inputs.open()
    for folder in inputs.streamed:
        fetch_from(folder.place, folder.fetch, folder.open)
