"""What a takedown's receipt says is still to do."""

from typing import Any

import pytest

from orchestrator.artifacts.takedowns import TaintedArtifact, Takedown
from stages.provenance.receipt import Receipt, Successor


def tainted(kind: str, *, is_kept: bool) -> TaintedArtifact:
    return TaintedArtifact(
        stage_kind="curate", fingerprint=kind, kind=kind, why="holds it", is_kept=is_kept, manifest_sha256="m", bytes=1,
        run_id="r", stage_id="s", attempt_id="a",
    )  # fmt: skip


TAKEDOWN = Takedown(
    id="T1", note="", created="2025-01-01", content={},
    tainted=(tainted("dataset@1", is_kept=False), tainted("mllm@1", is_kept=True)),
)  # fmt: skip
SUCCESSOR = Successor(recipe="r", stage="curated", kind="dataset@1", fingerprint="f" * 64, manifest_sha256="d" * 64)


def receipt(**given: Any) -> Receipt:
    done: dict[str, Any] = {"valid_records": (), "files": (), "shards_found": 0, "successors": (SUCCESSOR,)}
    return Receipt(takedown=TAKEDOWN, **{**done, "recipes_to_rerun": (), **given})


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ({"valid_records": ("a", "b")}, "illume takedown apply"),
        ({"shards_found": 1}, "apply another takedown"),
        ({"files": ("folder",)}, "illume gc --delete"),
        ({"recipes_to_rerun": ("quickstart",)}, "illume run"),
    ],
)
def test_each_open_point_names_what_to_do_and_keeps_the_takedown_incomplete(
    given: dict[str, Any], command: str
) -> None:
    found = receipt(**given)
    (point,) = found.open_points
    assert command in point
    statement: Any = found.statement()
    assert statement["predicate"]["complete"] is False
    assert statement["predicate"]["open"] == [point]


def test_a_complete_takedown_lists_deleted_artifacts_marked_models_and_successors() -> None:
    statement: Any = receipt().statement()
    predicate = statement["predicate"]
    assert predicate["complete"] is True
    assert [artifact["kind"] for artifact in predicate["deleted"]] == ["dataset@1"]
    assert [artifact["kind"] for artifact in predicate["marked_models"]] == ["mllm@1"]
    assert predicate["successors"][0]["stage"] == "curated"
    assert statement["subject"][0]["name"] == f"r/curated@{'f' * 64}"
