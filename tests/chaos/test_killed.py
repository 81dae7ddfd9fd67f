"""`kill -9` in the real recipe: of the driver in three stages, of a worker in two. Nothing is lost, nothing done twice.

One story is told once, in a folder of its own, and compared with an undisturbed run of the same recipe. Its commands
continue each other: the user only ever types the same line again. It is the one chain through Ray Train that is not
marked slow; the workers of the undisturbed run are plain processes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.end_to_end.desk import RAY_TRAIN, TINY, Desk

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

# One tokenizing process at a time gives the moment between two shards room; who works is not part of an identity.
COMMAND = (str(TINY), "--until", "mllm_1", "--set", "stages.tokens.resources.workers=1")
CURATE_SHARDS, TOKEN_SHARDS = 42, 8  # 14 are measured, then judged, then written
VISION_STEPS, CHECKPOINT_EVERY = 200, 5  # of `vision` in tiny.yaml


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What was committed right after a driver was killed, and a plan made then."""

    artifacts: set[str]
    shards: dict[str, set[str]]  # by stage kind
    checkpoints: dict[str, set[str]]
    plan: dict[str, Any]  # stages by id


@dataclass(frozen=True, kw_only=True)
class Story:
    desk: Desk
    killed_in: dict[str, Snapshot] = field(default_factory=dict)  # by stage
    last_words: str = ""
    events: list[Any] = field(default_factory=list)

    def of_stage(self, stage_id: str, kind: str) -> list[Any]:
        return [event for event in self.events if event["stage"] == stage_id and event["kind"] == kind]

    def ends(self, stage_id: str) -> list[str]:
        """How the attempts at a stage ended, in order, with the epoch of the driver that recorded it."""
        states = self.of_stage(stage_id, "attempt_state")
        ended = [event for event in states if event["fields"]["to"] not in UNDER_WAY]
        return [f"{event['epoch']} {event['fields']['to']}" for event in ended]


UNDER_WAY = ("INTENT", "RUNNING")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    desk = Desk(folder=tmp_path_factory.mktemp("storm"), environment={"ILLUME_TRACKING": "none"}, cluster=RAY_TRAIN)
    killed_in: dict[str, Snapshot] = {}

    def is_between(kind: str, low: int, high: int) -> Callable[[], bool]:
        def ready() -> bool:
            count = len(desk.shard_records(kind))
            assert count < high, f"{kind}: all {high} shards are made, it is too late to kill"
            return count >= low

        return ready

    def after_its_first_shard(action: str) -> Desk:
        """A worker does so when its first shard is recorded; else all of them are within a moment."""
        return replace(desk, environment={**desk.environment, "ILLUME_FAILPOINTS": f"shard.commit={action}"})

    def kill_driver(stage_id: str, ready: Callable[[], bool], start: Desk = desk) -> None:
        with start.start("run", *COMMAND) as driver:
            driver.wait_until(ready)
            driver.kill()
        killed_in[stage_id] = snapshot(desk)

    kill_driver("curated", is_between("curate", 3, CURATE_SHARDS))
    kill_driver("vision", lambda: len(desk.checkpoints("train_vision")) >= 2)
    for recorded in (1, 2):
        kill_driver(
            "tokens", is_between("tokenize_images", recorded, TOKEN_SHARDS), after_its_first_shard("hold:nothing")
        )
    with after_its_first_shard("delay:3").start("run", *COMMAND) as driver:
        made = len(desk.shard_records("tokenize_images"))
        driver.wait_until(is_between("tokenize_images", made + 1, TOKEN_SHARDS))
        driver.kill_one("ShardHost")
        driver.wait_until(lambda: len(desk.checkpoints("train_mllm")) >= 1)
        driver.kill_one("RayTrainWorker")
        last_words = driver.finish()
    return Story(desk=desk, killed_in=killed_in, last_words=last_words, events=desk.events())


def snapshot(desk: Desk) -> Snapshot:
    return Snapshot(
        artifacts=set(desk.artifacts()),
        shards={kind: desk.shard_records(kind) for kind in ("curate", "tokenize_images")},
        checkpoints={kind: desk.checkpoints(kind) for kind in ("train_vision", "train_mllm")},
        plan=desk.plan(*COMMAND),
    )


def test_every_artifact_has_the_bytes_of_an_undisturbed_run(story: Story, finished: Desk) -> None:
    disturbed, quiet = story.desk.digests(), finished.digests()
    assert len(disturbed) == 8
    assert disturbed == {place: quiet[place] for place in disturbed}


def test_the_same_command_continues_the_same_run(story: Story) -> None:
    runs = story.desk.illume("status", "--json").data["runs"]
    assert [(run["state"], run["epoch"]) for run in runs] == [("SUCCEEDED", 5)]
    assert "continuing run" in story.last_words


@pytest.mark.parametrize("stage_id", ["curated", "vision", "tokens"])
def test_a_plan_after_the_kill_reuses_exactly_what_was_committed(story: Story, stage_id: str) -> None:
    killed = story.killed_in[stage_id]
    assert killed.plan[stage_id]["action"] == "run"
    for name, stage in killed.plan.items():
        assert stage["action"] == ("reuse" if stage["fingerprint"] in killed.artifacts else "run")
        if stage["action"] == "reuse":  # and no attempt at it was made after that
            assert story.ends(name)[-1].endswith("COMMITTED")
            assert int(story.ends(name)[-1].split()[0]) <= list(story.killed_in).index(stage_id) + 1


def test_the_killed_driver_shows_as_lost_attempts(story: Story) -> None:
    assert story.ends("shapes") == ["1 COMMITTED"]
    assert story.ends("ingested") == ["1 COMMITTED"]
    assert story.ends("curated") == ["2 LOST", "2 COMMITTED"]
    assert story.ends("vision") == ["3 LOST", "3 COMMITTED"]
    assert story.ends("tokenizer") == ["3 COMMITTED"]
    assert story.ends("tokens") == ["4 LOST", "5 LOST", "5 COMMITTED"]


@pytest.mark.parametrize(
    ("stage_id", "kind", "label"), [("curated", "curate", "measure"), ("tokens", "tokenize_images", "tokenize")]
)
def test_recorded_shards_are_never_made_again(story: Story, stage_id: str, kind: str, label: str) -> None:
    recorded = story.killed_in[stage_id].shards[kind]
    planned = [event["fields"] for event in story.of_stage(stage_id, "shards_planned")]
    again = [fields for fields in planned if fields["label"] == label][-1]
    assert again["reused"] >= 2
    if label == "tokenize":
        assert again["reused"] == len(recorded)
    finished = [event["fields"] for event in story.of_stage(stage_id, "shards_finished")]
    made = next(fields["made"] for fields in finished if fields["label"] == label)
    assert made == again["shards"] - again["reused"]
    assert recorded <= story.desk.shard_records(kind)


def test_training_continues_from_its_newest_checkpoint(story: Story) -> None:
    before = max(int(name.split("/")[1]) for name in story.killed_in["vision"].checkpoints["train_vision"])
    after = [event for event in story.of_stage("vision", "metrics") if event["epoch"] == 3]
    steps = sorted({point[2] for event in after for point in event["fields"]["points"]})
    # A worker outlives its driver by a moment, in which it may commit one more, on a slow machine even the last one.
    began = steps[0] - 1 if steps else before
    assert before <= began <= VISION_STEPS
    assert began % CHECKPOINT_EVERY == 0
    assert steps == list(range(began + 1, VISION_STEPS + 1))


def test_a_killed_tokenizing_worker_costs_the_shard_in_flight(story: Story) -> None:
    lost = [event["fields"] for event in story.of_stage("tokens", "worker_lost")]
    assert len(lost) == 1
    assert lost[0]["failure"] == "node_lost"
    started = [event["fields"]["pid"] for event in story.of_stage("tokens", "worker_started") if event["epoch"] == 5]
    assert len(started) == 2
    assert started[0] == lost[0]["pid"]


def test_a_killed_training_worker_is_tried_again_from_its_checkpoint(story: Story) -> None:
    assert story.ends("mllm_1") == ["5 FAILED", "5 COMMITTED"]
    failed = next(
        event["fields"] for event in story.of_stage("mllm_1", "attempt_state") if event["fields"]["to"] == "FAILED"
    )
    assert failed["failure_class"] == "node_lost"
    assert failed["progressed"] is True


def test_what_killed_attempts_left_can_be_deleted(story: Story) -> None:
    garbage = story.desk.illume("gc", "--older-than-h", "0", "--json").data["garbage"]
    assert {item["reason"] for item in garbage} >= {"checkpoint"}
    assert story.desk.illume("verify", "--json").data["problems"] == []
