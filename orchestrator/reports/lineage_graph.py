"""The lineage of artifacts, what each was made from and used for: a graph of manifests, as text, JSON or Mermaid."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.artifact import JSON, Manifest
from orchestrator.artifacts.restarts import restart_in
from orchestrator.artifacts.takedowns import Takedown, taken_down_text
from orchestrator.errors import RecipeError

SHOWN_DIGITS = 12  # of a fingerprint, in text
Direction = Literal["up", "down", "both"]


@dataclass(frozen=True, kw_only=True)
class Node:
    """An artifact; an input that is no longer in the store has an empty `kind`."""

    fingerprint: str
    stage_kind: str = ""
    kind: str = ""
    bytes: int = 0
    run_id: str = ""  # from its provenance
    stage_id: str = ""
    taken_down: str = ""  # by which takedown it was removed or, for a kept model, marked


@dataclass(frozen=True, kw_only=True)
class Edge:
    parent: str  # fingerprint
    child: str
    slot: str  # of the child's stage


@dataclass(frozen=True, kw_only=True)
class LineageGraph:
    nodes: Mapping[str, Node]  # by fingerprint
    edges: tuple[Edge, ...]


def lineage_graph(manifests: Iterable[Manifest]) -> LineageGraph:
    """The graph of these artifacts, their inputs, and the trainings that they continue."""
    nodes: dict[str, Node] = {}
    edges: list[Edge] = []
    for manifest in manifests:
        nodes[manifest.fingerprint] = _node(manifest)
        for slot, parents in manifest.inputs.items():
            edges += [Edge(parent=parent, child=manifest.fingerprint, slot=slot) for parent in parents]
        if (restart := restart_in(manifest.payload)) is not None:
            slot = f"continues from its clean checkpoint of step {restart.step}"
            edges.append(Edge(parent=restart.fingerprint, child=manifest.fingerprint, slot=slot))
    for edge in edges:
        nodes.setdefault(edge.parent, Node(fingerprint=edge.parent))
    edges.sort(key=lambda edge: (edge.child, edge.slot))  # keeps the order of parents within a slot
    return LineageGraph(nodes=dict(sorted(nodes.items())), edges=tuple(edges))


def with_takedowns(graph: LineageGraph, takedowns: Sequence[Takedown]) -> LineageGraph:
    """The graph, in which absent inputs and marked models say by which takedown."""
    texts = {name: taken_down_text(takedowns, name) for name in graph.nodes}
    nodes = {name: replace(node, taken_down=texts[name]) for name, node in graph.nodes.items()}
    return replace(graph, nodes=nodes)


def resolve(graph: LineageGraph, prefix: str) -> str:
    """The only fingerprint that starts with `prefix`.

    Raises:
        RecipeError: none does, or several do.
    """
    found = [fingerprint for fingerprint in graph.nodes if prefix and fingerprint.startswith(prefix.lower())]
    if len(found) == 1:
        return found[0]
    if not found:
        raise RecipeError(
            f"artifact {prefix!r}: not among the {len(graph.nodes)} in the store; `illume status` shows them"
        )
    several = ", ".join(fingerprint[:SHOWN_DIGITS] for fingerprint in found[:5])
    raise RecipeError(f"artifact {prefix!r}: matches {len(found)} artifacts ({several} ...); give more digits")


def related(graph: LineageGraph, fingerprint: str, direction: Direction) -> LineageGraph:
    """The subgraph that `fingerprint` was made from (`up`), that was made from it (`down`), or both."""
    kept: dict[Edge, None] = {}
    if direction in ("up", "both"):
        kept |= _walk(graph, fingerprint, lambda edge: edge.child, lambda edge: edge.parent)
    if direction in ("down", "both"):
        kept |= _walk(graph, fingerprint, lambda edge: edge.parent, lambda edge: edge.child)
    names = {fingerprint} | {edge.parent for edge in kept} | {edge.child for edge in kept}
    nodes = {name: node for name, node in graph.nodes.items() if name in names}
    return LineageGraph(nodes=nodes, edges=tuple(edge for edge in graph.edges if edge in kept))


def to_json(graph: LineageGraph) -> dict[str, JSON]:
    nodes: list[JSON] = [
        {
            "fingerprint": node.fingerprint,
            "stage_kind": node.stage_kind,
            "kind": node.kind,
            "bytes": node.bytes,
            "run": node.run_id,
            "stage": node.stage_id,
            **({"taken_down": node.taken_down} if node.taken_down else {}),
        }
        for node in graph.nodes.values()
    ]
    edges: list[JSON] = [{"parent": edge.parent, "child": edge.child, "slot": edge.slot} for edge in graph.edges]
    return {"nodes": nodes, "edges": edges}


def to_mermaid(graph: LineageGraph) -> str:
    """A Mermaid flow chart, parents to the left."""
    lines = ["flowchart LR"]
    for node in graph.nodes.values():
        name = node.taken_down or node.stage_id or node.stage_kind or "not in the store"
        label = f"{name}<br/>{node.kind}<br/>{node.fingerprint[:SHOWN_DIGITS]}"
        lines.append(f'    {_mermaid_id(node.fingerprint)}["{_mermaid_text(label)}"]')
    for edge in graph.edges:
        arrow = f'-->|"{_mermaid_text(edge.slot)}"|'
        lines.append(f"    {_mermaid_id(edge.parent)} {arrow} {_mermaid_id(edge.child)}")
    return "\n".join(lines) + "\n"


def to_text(graph: LineageGraph, fingerprint: str, direction: Direction) -> str:
    """Indented trees around one artifact; a subtree shown before is replaced by `...`."""
    lines = [_label(graph.nodes[fingerprint])]
    if direction in ("up", "both"):
        parents = _group_by_near((edge.child, edge.parent, edge.slot) for edge in graph.edges)
        lines += ["  made from:", *_tree(graph, fingerprint, parents)] if parents.get(fingerprint) else []
    if direction in ("down", "both"):
        children = _group_by_near((edge.parent, edge.child, edge.slot) for edge in graph.edges)
        lines += ["  used for:", *_tree(graph, fingerprint, children)] if children.get(fingerprint) else []
    return "\n".join(lines) + "\n"


def _node(manifest: Manifest) -> Node:
    run_id, stage_id = (manifest.provenance.get(name) for name in ("run", "stage"))
    return Node(
        fingerprint=manifest.fingerprint,
        stage_kind=manifest.stage_kind,
        kind=manifest.kind,
        bytes=sum(entry.bytes for entry in manifest.files),
        run_id=run_id if isinstance(run_id, str) else "",
        stage_id=stage_id if isinstance(stage_id, str) else "",
    )


def _walk(graph: LineageGraph, start: str, near: Callable[[Edge], str], far: Callable[[Edge], str]) -> dict[Edge, None]:
    """Edges reachable from `start`, each followed from its near to its far end."""
    by_near: defaultdict[str, list[Edge]] = defaultdict(list)
    for edge in graph.edges:
        by_near[near(edge)].append(edge)
    reached: dict[Edge, None] = {}
    pending = [start]
    while pending:
        for edge in by_near.pop(pending.pop(), []):
            reached[edge] = None
            pending.append(far(edge))
    return reached


def _group_by_near(links: Iterable[tuple[str, str, str]]) -> dict[str, list[tuple[str, str]]]:
    grouped: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for near, far, slot in links:
        grouped[near].append((far, slot))
    return dict(grouped)


def _tree(graph: LineageGraph, start: str, links: Mapping[str, Sequence[tuple[str, str]]]) -> list[str]:
    lines: list[str] = []
    shown = {start}
    pending = [(far, slot, 2) for far, slot in reversed(links.get(start, []))]
    while pending:
        fingerprint, slot, depth = pending.pop()
        again = fingerprint in shown and bool(links.get(fingerprint))
        lines.append(f"{'  ' * depth}{slot}: {_label(graph.nodes[fingerprint])}{' ...' if again else ''}")
        if not again:
            shown.add(fingerprint)
            pending += [(far, name, depth + 1) for far, name in reversed(links.get(fingerprint, []))]
    return lines


def _label(node: Node) -> str:
    if not node.kind:
        return f"{node.fingerprint[:SHOWN_DIGITS]} ({node.taken_down or 'not in the store'})"
    made_in = f", stage {node.stage_id} of run {node.run_id}" if node.run_id else ""
    marked = f"; {node.taken_down}" if node.taken_down else ""
    return f"{node.fingerprint[:SHOWN_DIGITS]} {node.kind} by {node.stage_kind}, {node.bytes:,} bytes{made_in}{marked}"


def _mermaid_id(fingerprint: str) -> str:
    return f"a{fingerprint[:16]}"


def _mermaid_text(text: str) -> str:
    return text.replace('"', "#quot;")
