"""Nodes that a run does without, because stages of it found them slow, unfit or wrong.

A stage records what it found as an event of the kind `NODE_OFFENCE`. One observation may be an accident, so a node is
avoided after the second one, or after one that is certain. Other runs judge for themselves.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from orchestrator.artifact import JSON

NODE_OFFENCE = "node_offence"  # fields: {"node": name, "what": text, "certain": bool}
MAX_OFFENCES = 1  # that a node may have


def avoided_nodes(offences: Iterable[Mapping[str, JSON]]) -> frozenset[str]:
    """The names of the nodes to avoid. `offences`: the fields of the events, in any order."""
    counts: Counter[str] = Counter()
    for found in offences:
        counts[str(found.get("node", ""))] += MAX_OFFENCES + 1 if found.get("certain") is True else 1
    return frozenset(node for node, count in counts.items() if node and count > MAX_OFFENCES)
