"""Where the stages of a run are drawn: in layers from left to right, folded into bands like lines of text.

Only edges that no longer path implies are kept, so that a dataset which every stage reads does not hide the order of
work. An edge that passes a layer gets a place in it, so that no line crosses a stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean

SWEEPS = 4  # passes that order each layer by its neighbours; more changed nothing in the recipes of this repository

Inputs = Mapping[str, Sequence[str]]  # of each stage, upstream first


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place in a layer: of a stage, or of the edge that passes through."""

    layer: int
    row: int
    stage_id: str  # the stage; of a passing edge, where it comes from
    is_stage: bool


@dataclass(frozen=True, kw_only=True)
class Link:
    """A piece of an edge between neighbouring layers."""

    source: Slot
    target: Slot
    edge: tuple[str, str]  # (upstream, downstream)


@dataclass(frozen=True, kw_only=True)
class DagLayout:
    slots: tuple[Slot, ...]
    links: tuple[Link, ...]
    num_layers: int

    def rows_of(self, layer: int) -> int:
        return sum(slot.layer == layer for slot in self.slots)


def lay_out(inputs: Inputs) -> DagLayout:
    """The layers of the graph; an input that is not itself a stage is left out."""
    edges = reduced_edges(inputs)
    layer_of = _layers(inputs, edges)
    num_layers = 1 + max(layer_of.values(), default=-1)
    chains = [_chain(edge, layer_of) for edge in edges]
    columns: list[list[_Key]] = [[] for _ in range(num_layers)]
    for stage in inputs:
        columns[layer_of[stage]].append((layer_of[stage], stage, ""))
    for chain in chains:
        for key in chain[1:-1]:
            columns[key[0]].append(key)
    joined = [pair for chain in chains for pair in pairwise(chain)]
    _sort_columns(columns, joined)
    slots = {
        key: Slot(layer=key[0], row=row, stage_id=key[1], is_stage=not key[2])
        for column in columns
        for row, key in enumerate(column)
    }
    links = tuple(
        Link(source=slots[a], target=slots[b], edge=edge)
        for edge, chain in zip(edges, chains, strict=True)
        for a, b in pairwise(chain)
    )
    return DagLayout(slots=tuple(slots.values()), links=links, num_layers=num_layers)


def reduced_edges(inputs: Inputs) -> list[tuple[str, str]]:
    """(upstream, downstream) of each edge that no longer path implies; stages are given upstream first."""
    above: dict[str, set[str]] = {}
    edges = []
    for stage, upstream in inputs.items():
        parents = [name for name in dict.fromkeys(upstream) if name in above]
        implied = set().union(*(above[name] for name in parents))
        edges += [(name, stage) for name in parents if name not in implied]
        above[stage] = implied | set(parents)
    return edges


_Key = tuple[int, str, str]  # (layer, stage, ""), or (layer, upstream, downstream) of an edge that passes


def _layers(inputs: Inputs, edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    layer_of: dict[str, int] = {}
    for stage in inputs:
        layer_of[stage] = 1 + max((layer_of[source] for source, target in edges if target == stage), default=-1)
    return layer_of


def _chain(edge: tuple[str, str], layer_of: Mapping[str, int]) -> list[_Key]:
    source, target = edge
    passed = [(layer, source, target) for layer in range(layer_of[source] + 1, layer_of[target])]
    return [(layer_of[source], source, ""), *passed, (layer_of[target], target, "")]


def _sort_columns(columns: list[list[_Key]], joined: Sequence[tuple[_Key, _Key]]) -> None:
    neighbours: dict[_Key, list[_Key]] = {}
    for a, b in joined:
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    for sweep in range(SWEEPS):
        order = list(range(len(columns)))
        for before, index in pairwise(order if sweep % 2 == 0 else order[::-1]):
            place = {key: _share(row, len(columns[before])) for row, key in enumerate(columns[before])}
            centres = {
                key: _centre(neighbours.get(key, []), place, _share(row, len(columns[index])))
                for row, key in enumerate(columns[index])
            }
            columns[index].sort(key=centres.__getitem__)


def _share(row: int, rows: int) -> float:
    return (row + 0.5) / rows


def _centre(beside: Sequence[_Key], place: Mapping[_Key, float], otherwise: float) -> float:
    known = [place[key] for key in beside if key in place]
    return mean(known) if known else otherwise
