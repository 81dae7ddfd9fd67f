import json
from itertools import pairwise

import pytest

from orchestrator.artifact import FileEntry, Fingerprint, Manifest
from orchestrator.errors import RecipeError
from orchestrator.reports.lineage_graph import (
    LineageGraph,
    lineage_graph,
    related,
    resolve,
    to_json,
    to_mermaid,
    to_text,
)


def manifest(digit: str, kind: str, **inputs: tuple[str, ...]) -> Manifest:
    return Manifest(
        kind=f"{kind}@1",
        stage_kind=f"make_{kind}",
        fingerprint=Fingerprint(digit * 64),
        payload={},
        files=(FileEntry(path="a", bytes=1500, sha256="0" * 64),),
        metrics={},
        inputs={slot: tuple(parent * 64 for parent in parents) for slot, parents in inputs.items()},
        provenance={"run": "r1", "stage": kind} if kind != "raw" else {},
    )


@pytest.fixture
def graph() -> LineageGraph:
    """raw -> data -> (tokens, vision) -> model; data also uses an artifact that was deleted."""
    return lineage_graph(
        [
            manifest("e", "model", tokens=("c",), vision=("d",)),
            manifest("a", "raw"),
            manifest("b", "data", raw=("a", "9")),
            manifest("c", "tokens", data=("b",), tokenizer=("d",)),
            manifest("d", "vision", data=("b",)),
            manifest("f", "other"),
        ]
    )


def names(graph: LineageGraph) -> str:
    return "".join(fingerprint[0] for fingerprint in graph.nodes)


def test_up_and_down_give_exactly_the_related_artifacts(graph: LineageGraph) -> None:
    assert names(related(graph, "c" * 64, "up")) == "9abcd"
    assert names(related(graph, "c" * 64, "down")) == "ce"
    assert names(related(graph, "b" * 64, "both")) == "9abcde"
    assert names(related(graph, "f" * 64, "both")) == "f"
    edges = related(graph, "c" * 64, "down").edges
    assert [(edge.parent[0], edge.child[0], edge.slot) for edge in edges] == [("c", "e", "tokens")]


def test_a_fingerprint_can_be_shortened_while_it_is_unambiguous(graph: LineageGraph) -> None:
    assert resolve(graph, "C") == "c" * 64
    with pytest.raises(RecipeError, match="artifact '0': not among the 7 in the store"):
        resolve(graph, "0")
    with pytest.raises(RecipeError, match="not among"):
        resolve(graph, "")
    alike = lineage_graph([manifest("a", "raw"), *[]])
    two = LineageGraph(nodes={**alike.nodes, "ab" * 32: alike.nodes["a" * 64]}, edges=())
    with pytest.raises(RecipeError, match=r"artifact 'a': matches 2 artifacts \(aaaaaaaaaaaa, abababababab"):
        resolve(two, "a")


def test_the_text_shows_both_directions_and_nothing_twice(graph: LineageGraph) -> None:
    assert to_text(graph, "c" * 64, "both") == (
        "cccccccccccc tokens@1 by make_tokens, 1,500 bytes, stage tokens of run r1\n"
        "  made from:\n"
        "    data: bbbbbbbbbbbb data@1 by make_data, 1,500 bytes, stage data of run r1\n"
        "      raw: aaaaaaaaaaaa raw@1 by make_raw, 1,500 bytes\n"
        "      raw: 999999999999 (not in the store)\n"
        "    tokenizer: dddddddddddd vision@1 by make_vision, 1,500 bytes, stage vision of run r1\n"
        "      data: bbbbbbbbbbbb data@1 by make_data, 1,500 bytes, stage data of run r1 ...\n"
        "  used for:\n"
        "    tokens: eeeeeeeeeeee model@1 by make_model, 1,500 bytes, stage model of run r1\n"
    )


def test_json_and_mermaid_hold_every_node_and_edge(graph: LineageGraph) -> None:
    part = related(graph, "d" * 64, "up")
    value = json.loads(json.dumps(to_json(part)))
    assert [node["fingerprint"][0] for node in value["nodes"]] == ["9", "a", "b", "d"]
    assert value["edges"][-1] == {"parent": "b" * 64, "child": "d" * 64, "slot": "data"}
    chart = to_mermaid(part).splitlines()
    assert chart[0] == "flowchart LR"
    assert '    aaaaaaaaaaaaaaaaa["make_raw<br/>raw@1<br/>aaaaaaaaaaaa"]' in chart
    assert '    abbbbbbbbbbbbbbbb -->|"data"| adddddddddddddddd' in chart
    assert len(chart) == 1 + 4 + 3


def test_a_cycle_in_damaged_manifests_ends(graph: LineageGraph) -> None:
    cyclic = lineage_graph([manifest("a", "raw", x=("b",)), manifest("b", "data", x=("a",))])
    assert names(related(cyclic, "a" * 64, "both")) == "ab"
    assert to_text(cyclic, "a" * 64, "up").endswith("...\n")


def test_a_chain_of_thousands_needs_no_recursion() -> None:
    digits = [f"{number:064x}" for number in range(5000)]
    chain = [
        Manifest(
            kind="k@1",
            stage_kind="k",
            fingerprint=Fingerprint(digit),
            payload={},
            files=(),
            metrics={},
            inputs={"x": (before,)},
        )
        for before, digit in pairwise(digits)
    ]
    graph = lineage_graph(chain)
    assert len(related(graph, digits[-1], "up").nodes) == 5000
    assert len(to_text(graph, digits[-1], "up").splitlines()) == 5001
