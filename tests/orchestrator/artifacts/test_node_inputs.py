"""What workers read on their node: a node that does not see it is a precheck, and names the node."""

import socket
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts.node_inputs import StoredInputs
from orchestrator.errors import PrecheckError
from orchestrator.store.store import open_store


def inputs(folder: Path, **changed: Any) -> StoredInputs:
    given: dict[str, Any] = {"store_id": "", "whole": (), "streamed": (), "paths": {}}
    return StoredInputs(store=open_store(folder), **given | changed)


def test_a_node_that_does_not_mount_the_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrecheckError, match=rf"on node {socket.gethostname()}: found no store, expected abc.*Mount"):
        inputs(tmp_path / "not-mounted", store_id="abc").open()


def test_a_path_that_this_node_does_not_see_is_named(tmp_path: Path) -> None:
    inputs(tmp_path, paths={"base_model": str(tmp_path)}).open()
    with pytest.raises(
        PrecheckError, match=rf"config\.base_model: nothing at '/absent' on node {socket.gethostname()}"
    ):
        inputs(tmp_path, paths={"base_model": "/absent"}).open()
