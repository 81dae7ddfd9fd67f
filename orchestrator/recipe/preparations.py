"""The stages that a recipe need not name: they prepare data for stages on GPUs, so that no GPU waits for it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from orchestrator.identity import canonical_json
from orchestrator.stage import Preparation, Resources, RetryPolicy, StageSpec

MAX_WORKERS = 64  # of a preparation: more wait for the store


def with_preparations(stages: Sequence[StageSpec]) -> list[StageSpec]:
    """The stages, each after those that prepare it; stages that need the same preparation share it."""
    added: dict[str, str] = {}  # what decides a preparation -> its id
    taken = {stage.id for stage in stages}
    found: list[StageSpec] = []
    for stage in stages:
        for preparation in _preparations_of(stage, taken):
            decides = canonical_json([preparation.kind.name, preparation.config, preparation.inputs])
            if decides not in added:
                added[decides] = preparation.id
                taken.add(preparation.id)
                found.append(preparation)
            slot = next(slot for slot, one in stage.kind.preparations.items() if one.kind is preparation.kind)
            stage = replace(stage, inputs={**stage.inputs, slot: (added[decides],)})
        found.append(stage)
    return found


def _preparations_of(stage: StageSpec, taken: set[str]) -> Iterator[StageSpec]:
    if not stage.resources.gpus:
        return
    for slot, preparation in stage.kind.preparations.items():
        if slot not in stage.inputs:
            yield _preparation(stage, slot, preparation, taken)


def _preparation(stage: StageSpec, slot: str, preparation: "Preparation[object]", taken: set[str]) -> StageSpec:
    kind = preparation.kind
    stage_id = f"{stage.id}_{slot}"
    while stage_id in taken:  # a stage of the recipe has this name
        stage_id += "_"
    given = stage.resources
    workers = min(MAX_WORKERS, given.workers * max(1, int(given.cpus)))
    return StageSpec(
        id=stage_id,
        kind=kind,
        config=preparation.config(stage.config),
        inputs={name: stage.inputs[name] for name in preparation.inputs if name in stage.inputs},
        resources=Resources(workers=workers),
        retry=RetryPolicy(),
        execution=preparation.execution(stage.execution) if preparation.execution else kind.execution(),
    )
