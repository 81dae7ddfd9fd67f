from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.artifact import ArtifactKey
from orchestrator.artifacts.uses import record_use
from orchestrator.attempt_id import AttemptId
from orchestrator.history.events import RunState
from orchestrator.retention.holders import Holder, holders
from tests.orchestrator.retention.test_claims import ATTEMPT, KEY, SHARD, Desk


def held(desk: Desk, *alive: str) -> list[Holder]:
    return holders(desk.claims.liveness, lambda attempt: attempt in alive)


def test_what_is_held_is_said_with_by_whom_and_why(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with closing(desk.database), closing(desk.history):
        epoch = desk.start("run-2")
        folder = desk.artifacts.new_attempt(KEY, ATTEMPT.name)
        record_use(desk.store, ATTEMPT, KEY, shards=[SHARD.fingerprint, "02" * 32])
        record_use(desk.store, ATTEMPT, KEY, artifacts=[ArtifactKey("ingest", "03" * 32)])
        (holder,) = held(desk, ATTEMPT.name)
        assert (holder.state, holder.shards, holder.artifacts, holder.run_id) == ("at work", 2, 1, "run-2")
        assert [found.state for found in held(desk)] == ["not ended"]
        desk.artifacts.abort(folder, reason="stopped")
        desk.end("run-2", epoch, RunState.INTERRUPTED)
        assert [found.state for found in held(desk)] == ["may be resumed"]


def test_an_attempt_that_nobody_knows_is_named_with_what_to_do(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with closing(desk.database), closing(desk.history):
        lost = AttemptId.of("run-lost", "curate", epoch=1, number=1)
        record_use(desk.store, lost, KEY, shards=[SHARD.fingerprint])
        (holder,) = held(desk)
        assert (holder.state, holder.attempt, holder.shards) == ("unknown", lost.name, 1)
        assert "is known neither to the store nor to the database" in holder.sentence
        assert f"uses/{lost.name}/" in holder.sentence
        desk.commit(lost.name)
        assert held(desk) == []


@pytest.mark.parametrize("numbers", [(1, 2), (2, 1)])
def test_the_largest_holder_comes_first(tmp_path: Path, numbers: tuple[int, int]) -> None:
    desk = Desk(tmp_path)
    with closing(desk.database), closing(desk.history):
        for number in numbers:
            attempt = AttemptId.of("run-lost", "curate", epoch=1, number=number)
            record_use(desk.store, attempt, KEY, shards=[f"{shard:02}" * 32 for shard in range(number)])
        assert [holder.shards for holder in held(desk)] == [2, 1]
