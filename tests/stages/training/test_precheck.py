"""What cannot be trained as its execution and resources say is refused with the plan, before anything runs."""

import pytest

from orchestrator.errors import PrecheckError
from orchestrator.planning.plan import run_prechecks
from tests.stages.test_kinds import planned

TRAININGS = ("vision", "tokenizer", "mllm_2", "decoder")
SHARDED = ("execution.strategy=fsdp2", "execution.shard_workers=2", "resources.workers=3")
REFUSED = [
    *((stage, SHARDED, "execution.shard_workers: 2 does not divide 3 workers") for stage in TRAININGS),
    ("mllm_3", ("execution.strategy=fsdp2", "resources.workers=2"), "loop.optimizer.name: muon with .*strategy: ddp"),
    ("mllm_1", ("execution.sequence_workers=3", "resources.workers=3"), "does not divide the 4 attention heads"),
    ("mllm_2", ("execution.sequence_workers=2",), "execution.sequence_workers: 2 does not divide 1 workers"),
    ("mllm_2", ("execution.sequence_workers=3", "resources.workers=3"), "does not divide the 1,216 tokens of a row"),
]


@pytest.mark.parametrize(("stage", "settings", "message"), REFUSED)
def test_it_is_refused_by_name_before_a_run_starts(stage: str, settings: tuple[str, ...], message: str) -> None:
    plan = planned("quickstart", *(f"stages.{stage}.{setting}" for setting in settings))
    with pytest.raises(PrecheckError, match=rf"^stages\.{stage}: .*{message}"):
        run_prechecks(plan)


def test_what_goes_together_is_not_refused() -> None:
    run_prechecks(
        planned("quickstart", "stages.mllm_1.execution.sequence_workers=2", "stages.mllm_1.resources.workers=2")
    )
