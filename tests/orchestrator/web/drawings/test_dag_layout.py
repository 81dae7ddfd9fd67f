"""The layers of a graph: order of work first, no line through a stage."""

from itertools import combinations

from orchestrator.web.drawings.dag_layout import lay_out, reduced_edges

QUICKSTART = {
    "shapes": [],
    "ingested": ["shapes"],
    "curated": ["ingested"],
    "vision": ["curated"],
    "tokenizer": ["curated", "vision"],
    "tokens": ["curated", "tokenizer"],
    "vocabulary": ["curated", "tokenizer"],
    "mllm_1": ["curated", "tokens", "tokenizer", "vocabulary"],
    "mllm_2": ["curated", "tokens", "tokenizer", "vocabulary", "mllm_1"],
    "decoder": ["curated", "tokens", "tokenizer"],
    "evaluated": ["curated", "tokenizer", "mllm_2", "decoder"],
}


def test_an_edge_that_a_longer_path_implies_is_not_drawn() -> None:
    edges = reduced_edges(QUICKSTART)
    assert ("curated", "vision") in edges
    assert ("curated", "evaluated") not in edges
    assert [edge for edge in edges if edge[1] == "mllm_2"] == [("mllm_1", "mllm_2")]


def test_each_stage_stands_after_all_that_it_reads() -> None:
    layer = {slot.stage_id: slot.layer for slot in lay_out(QUICKSTART).slots if slot.is_stage}
    assert set(layer) == set(QUICKSTART)
    assert all(layer[name] < layer[stage] for stage, inputs in QUICKSTART.items() for name in inputs)


def test_links_join_neighbouring_layers_and_no_two_slots_share_a_place() -> None:
    layout = lay_out(QUICKSTART)
    assert all(link.target.layer == link.source.layer + 1 for link in layout.links)
    places = [(slot.layer, slot.row) for slot in layout.slots]
    assert len(set(places)) == len(places)


def test_a_graph_that_can_be_drawn_without_crossings_is() -> None:
    inputs = {"a": [], "b": [], "x": ["b"], "y": ["a"], "z": ["x"], "w": ["y"]}
    links = lay_out(inputs).links
    for one, other in combinations(links, 2):
        if one.source.layer == other.source.layer:
            assert (one.source.row - other.source.row) * (one.target.row - other.target.row) >= 0


def test_an_empty_run_and_an_input_from_elsewhere_are_drawn() -> None:
    assert lay_out({}).num_layers == 0
    assert reduced_edges({"a": ["not a stage of this run"]}) == []
