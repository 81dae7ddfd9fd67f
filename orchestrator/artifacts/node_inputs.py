"""What the workers of a stage read, on the node of each: seen by every one of them, and fetched once a node."""

import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import PrecheckError, UnreachableStoreError
from orchestrator.store.copies.copy_budget import BUDGET_VARIABLE, budget_bytes
from orchestrator.store.copies.local_copy import readable_folder
from orchestrator.store.copies.node_files import NodeFiles
from orchestrator.store.store import Store
from orchestrator.store.store_identity import check_on_this_node

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StoredInputs:
    """`stage.NodeInputs` of an attempt. Can be pickled."""

    store: Store
    store_id: str  # of `STORE.json` as the driver sees it; empty if it has none
    whole: Sequence[NodeFiles] = field(repr=False)  # fetched before the work begins
    streamed: Sequence[NodeFiles] = field(repr=False)  # each file is fetched when it is first read
    paths: Mapping[str, str]  # outside the store: field of the configuration -> path

    def open(self) -> None:
        """Fetch what is read from the start, once a node: the other processes of the node wait.

        Raises: PrecheckError: this node does not see the store, or a path that the configuration names.
        """
        try:
            check_on_this_node(self.store, self.store_id)
        except UnreachableStoreError as error:
            raise PrecheckError(str(error)) from error
        for name, path in self.paths.items():
            if not Path(path).exists():
                raise PrecheckError(
                    f"config.{name}: nothing at {path!r} on node {socket.gethostname()}, where a worker of this stage "
                    "runs; put it there on every node, or on a file system that all of them mount"
                )
        for folder in self.whole:
            readable_folder(folder.store, folder.cache, folder.data_key, list(folder.files.values()), folder.holder)
        self._warn_of_small_budget()

    @property
    def cache_bytes(self) -> int:
        return budget_bytes(self.streamed[0].cache) if self.streamed else 0

    def _warn_of_small_budget(self) -> None:
        needed = sum(size for folder in self.streamed for size in folder.sizes.values())
        if needed and needed > (budget := self.cache_bytes):
            log.warning(
                "the shards of its inputs take %d bytes, the local copies of node %s at most %d: what does not fit is "
                "fetched again each time it is read; %s sets another budget",
                needed,
                socket.gethostname(),
                budget,
                BUDGET_VARIABLE,
            )
