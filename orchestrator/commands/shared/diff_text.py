"""A comparison of two runs as text for a terminal."""

from collections.abc import Iterator, Mapping, Sequence

from orchestrator.commands.shared.formatting import duration_text, short, time_text
from orchestrator.reports.run_diff import RunDiff, StageDiff, is_same_metric
from orchestrator.reports.run_outputs import RunOutputs, StageOutput

SHOWN_FILES = 4
SHOWN_METRICS = 12  # of one stage; JSON and the page have all


def run_diff_text(diff: RunDiff, datasets: Mapping[str, Sequence[str]]) -> str:
    """The comparison as text. `datasets`: lines about the data of some stages."""
    sections = {
        "Recipe": _recipe(diff),
        "First stages that differ": _first(diff),
        "Taken down": taken_down_lines(diff),
        "One identity, two results": [line for stage in diff.stages for line in nondeterminism_lines(stage)],
        "Code": [f"{stage.id}: {files_text(stage.code)}" for stage in diff.stages if stage.code],
        "Environment": [f"{change} ({', '.join(ids)})" for change, ids in diff.environment.items()],
        "Data": [line for name, lines in datasets.items() for line in (f"{name}:", *(f"  {line}" for line in lines))],
        "Metrics": _metrics(diff),
        "Time": _times(diff),
    }
    head = [f"{letter}  {run_text(side)}" for letter, side in (("A", diff.before), ("B", diff.after))]
    parts = ["\n".join(head)]
    parts += ["\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in sections.items() if lines]
    return "\n\n".join(parts)


def run_text(outputs: RunOutputs) -> str:
    run = outputs.run
    return f"{run.run_id}  {run.recipe}, {run.state}, {time_text(run.created_at)}"


def taken_down_lines(diff: RunDiff) -> list[str]:
    """Which outputs of the runs a takedown removed or marked."""
    sides = [
        (stage.id, letter, side) for stage in diff.stages for letter, side in (("A", stage.before), ("B", stage.after))
    ]
    return [f"{name} of {letter}: {side.taken_down}" for name, letter, side in sides if side and side.taken_down]


def files_text(files: Sequence[str]) -> str:
    more = f" and {len(files) - SHOWN_FILES} more" if len(files) > SHOWN_FILES else ""
    return f"{', '.join(files[:SHOWN_FILES])}{more}"


def nondeterminism_lines(stage: StageDiff) -> Iterator[str]:
    """Lines about a stage that was made twice with one identity and different files; nothing else shows this."""
    if stage.is_nondeterministic and stage.after and stage.after.output:
        differs = " and ".join(
            name for name, found in (("code", stage.code), ("environment", stage.environment)) if found
        )
        cause = f"the {differs} it was made with differs, see below" if differs else "the stage is not deterministic"
        yield (
            f"{stage.id}: made twice with identity {short(stage.after.fingerprint)}, and {len(stage.files)} of "
            f"{len(stage.after.output.manifest.files)} files differ: {files_text(stage.files)}; {cause}"
        )


def unmatched_lines(diff: RunDiff) -> list[str]:
    """Lines about stages that only one of the runs has."""
    lines = []
    for state, where in (("removed", "A"), ("added", "B")):
        found = [f"{stage.id} ({side.planned['kind']})" for stage in diff.stages
                 if stage.state == state and (side := stage.before or stage.after)]  # fmt: skip
        lines += [f"only in {where}: {', '.join(found)}"] if found else []
    return lines


def identity_text(stage: StageDiff) -> str:
    """The identities of both sides, or the one that exists with the stage's state."""
    if stage.before and stage.after:
        return f"{short(stage.before.fingerprint)} -> {short(stage.after.fingerprint)}"
    side = stage.after or stage.before
    return f"{stage.state}, {short(side.fingerprint) if side else ''}"


def time_of(side: StageOutput | None) -> str:
    """How long the output took, and whether it was made or reused."""
    if side is None:
        return "no such stage"
    took = duration_text(side.seconds) if side.seconds is not None else "not timed"
    if side.made_here:
        tries = f", {side.attempts} attempts, {duration_text(side.spent_s)} in all" if side.attempts > 1 else ""
        return took + tries
    if side.output is None:
        if side.taken_down:
            return side.taken_down
        return f"not made ({side.attempts} attempts)" if side.attempts else "not made"
    return f"reused ({took} in run {side.output.manifest.provenance.get('run', 'unknown')})"


def gpu_hours(outputs: RunOutputs) -> float:
    return sum(stage.gpu_hours for stage in outputs.stages.values())


def spent_text(outputs: RunOutputs) -> str:
    """Time of all attempts, and the GPU hours that they requested, if any."""
    spent = duration_text(sum(stage.spent_s for stage in outputs.stages.values()))
    hours = gpu_hours(outputs)
    return f"{spent} in all attempts" + (f", {hours:.2f} GPU hours requested" if hours else "")


def metric_text(value: float | None) -> str:
    return "" if value is None else f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.0f}"


def difference_text(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "only in B" if before is None else "only in A"
    share = f" ({(after - before) / abs(before):+.1%})" if before else ""
    sign = "+" if after > before else ""
    return f"{sign}{metric_text(after - before)}{share}"


def _recipe(diff: RunDiff) -> list[str]:
    lines = [*unmatched_lines(diff), *(str(change) for change in diff.identity)]
    if diff.execution:
        lines += ["not part of any identity:", *(f"  {change}" for change in diff.execution)]
    return lines or ["no value differs"]


def _first(diff: RunDiff) -> list[str]:
    lines: list[str] = []
    for stage in diff.stages:
        if stage.is_first:
            lines += [f"{stage.id}: {identity_text(stage)}", *(f"  {reason}" for reason in stage.reasons)]
    following = [stage.id for stage in diff.of_state("changed") if not stage.is_first]
    if following:
        lines.append(f"made from these, so they also differ: {', '.join(following)}")
    same_bytes = [stage.id for stage in diff.of_state("changed") if stage.outputs == "equal"]
    if same_bytes:
        lines.append(f"different identity, but the same files: {', '.join(same_bytes)}")
    return lines or ["none: every stage has one identity in both runs"]


def _metrics(diff: RunDiff) -> list[str]:
    lines: list[str] = []
    for stage in diff.stages:
        differing = [(name, pair) for name, pair in stage.metrics().items() if not is_same_metric(*pair)]
        if not differing or not (stage.before and stage.before.output and stage.after and stage.after.output):
            continue
        lines.append(f"{stage.id}:")
        width = max(len(name) for name, _ in differing[:SHOWN_METRICS])
        for name, (before, after) in differing[:SHOWN_METRICS]:
            pair = f"{metric_text(before):>12} -> {metric_text(after):>12}"
            lines.append(f"  {name:<{width}}  {pair}  {difference_text(before, after)}")
        if len(differing) > SHOWN_METRICS:
            lines.append(f"  and {len(differing) - SHOWN_METRICS} more; --json and --page have all")
    return lines


def _times(diff: RunDiff) -> list[str]:
    rows = [(stage.id, time_of(stage.before), time_of(stage.after)) for stage in diff.stages]
    rows.append(("all", spent_text(diff.before), spent_text(diff.after)))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{name:<{widths[0]}}  {before:<{widths[1]}}  |  {after}" for name, before, after in rows]
