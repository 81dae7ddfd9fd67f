"""The stacks of workers that make no progress: equal ones are grouped, and the workers that differ are named.

A collective operation waits for everybody, so of a training that hangs nearly all workers have the same stack, and the
cause is where the others are.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_FRAME = re.compile(r'^\s*File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<name>.+)$')
_THREAD = re.compile(r"^(?:Current thread|Thread) 0x")
_TRAINING = "stages/training/loop.py"  # the thread that has it is the one that trains
_COLLECTIVE = "torch/distributed/"  # among the innermost frames
_BACKWARD = "torch/autograd/graph.py"  # the innermost one: gradients are exchanged below it, in C++
SHOWN_RANKS = 12
SHOWN_FRAMES = 6
MAX_STACKS_CHARACTERS = 20_000  # of each group, logged as a whole


@dataclass(frozen=True, kw_only=True)
class StackGroup:
    """Workers with equal stacks."""

    ranks: tuple[int, ...]
    frames: tuple[str, ...]  # "name (file.py:12)", innermost first; () if no stack could be had
    waits: bool  # inside a collective operation or a backward pass: for others
    text: str  # the stacks of all threads of the first of them

    @property
    def where(self) -> str:
        return " in ".join(self.frames[:SHOWN_FRAMES]) or self.text.strip()[:200] or "no stack could be had"


def group_stacks(stacks: Mapping[int, str]) -> list[StackGroup]:
    """The groups, largest first; those that wait for others before those that do not."""
    ranks_of: dict[tuple[str, ...], list[int]] = {}
    waits: dict[tuple[str, ...], bool] = {}
    for rank, text in sorted(stacks.items()):
        frames, waiting = _training_frames(text)
        key = frames or (text.strip(),)
        ranks_of.setdefault(key, []).append(rank)
        waits[key] = waiting
    groups = [
        StackGroup(
            ranks=tuple(ranks),
            frames=key if _training_frames(stacks[ranks[0]])[0] else (),
            waits=waits[key],
            text=stacks[ranks[0]][:MAX_STACKS_CHARACTERS],
        )
        for key, ranks in ranks_of.items()
    ]
    return sorted(groups, key=lambda group: (not group.waits, -len(group.ranks), group.ranks))


def differing_ranks(groups: Sequence[StackGroup]) -> tuple[int, ...]:
    """The workers for which the others wait; () if all have the same stack, or nobody waits for anybody."""
    suspects = [group for group in groups if not group.waits] if any(group.waits for group in groups) else groups[1:]
    return tuple(sorted(rank for group in suspects for rank in group.ranks))


def describe_groups(groups: Sequence[StackGroup], nodes: Mapping[int, str]) -> str:
    """One line for each group: which workers, on which nodes if they are few, and where they are."""
    suspects = set(differing_ranks(groups))
    return "\n".join(f"  {_ranks_text(group, nodes, suspects)}: {group.where}" for group in groups)


def _ranks_text(group: StackGroup, nodes: Mapping[int, str], suspects: set[int]) -> str:
    shown = group.ranks[:SHOWN_RANKS]
    is_suspect = group.ranks[0] in suspects
    names = ", ".join(f"{rank} on {nodes[rank]}" if is_suspect and rank in nodes else str(rank) for rank in shown)
    more = f" and {len(group.ranks) - len(shown)} more" if len(group.ranks) > len(shown) else ""
    what = "differs" if is_suspect else "wait for others" if group.waits else "equal"
    return f"worker{'s' if len(group.ranks) > 1 else ''} {names}{more} ({what})"


def _training_frames(text: str) -> tuple[tuple[str, ...], bool]:
    """The frames of the thread that trains, else of the current one, else of the first; and whether it waits."""
    threads: list[tuple[str, list[tuple[str, str]]]] = []
    for line in text.splitlines():
        if _THREAD.match(line):
            threads.append((line, []))
        elif (found := _FRAME.match(line)) and threads:
            frame = f"{found['name']} ({found['file'].rpartition('/')[2]}:{found['line']})"
            threads[-1][1].append((found["file"].replace("\\", "/"), frame))
    if not threads:
        return (), False
    chosen = next((frames for _, frames in threads if any(_TRAINING in file for file, _ in frames)), None)
    if chosen is None:
        chosen = next((frames for title, frames in threads if title.startswith("Current")), threads[0][1])
    files = [file for file, _ in chosen]
    waits = any(_COLLECTIVE in file for file in files[:4]) or any(_BACKWARD in file for file in files[:1])
    return tuple(frame for _, frame in chosen), waits
