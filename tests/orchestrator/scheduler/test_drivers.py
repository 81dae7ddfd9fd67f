"""The processes that drive queued runs, with a shell in the place of the program."""

import time
from pathlib import Path

from orchestrator.queue.records import Submission
from orchestrator.scheduler.drivers import Drivers, Ended

PROFILE = "kind: local\ncpus: 2\n"


def submission(run_id: str, cluster: str = "") -> Submission:
    return Submission(
        at="2026-05-04T00:00:00Z", run_id=run_id, recipe="words", plan_digest="d" * 64, person="ada", cluster=cluster
    )


def drivers(folder: Path, script: str) -> Drivers:
    return Drivers(folder=folder / "queue", arguments=("--store", "s"), program=("sh", "-c", script, "illume"))


def wait(found: Drivers) -> list[Ended]:
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        if ended := found.ended():
            return ended
        time.sleep(0.02)
    raise AssertionError("the driver has not ended")


def test_a_driver_gets_its_run_the_places_and_the_profile_of_the_record(tmp_path: Path) -> None:
    found = drivers(tmp_path, 'echo "$@"; cat "$6"; echo $ILLUME_ACTOR; exit 3')
    run = submission("r1", PROFILE)
    found.start(run)
    assert "r1" in found
    (ended,) = wait(found)
    assert (ended.run_id, ended.code, len(found)) == ("r1", 3, 0)
    first, *rest = ended.last_words.splitlines()
    assert first.startswith(f"resume r1 --store s --cluster {tmp_path}/queue/profile-")
    assert rest == [*PROFILE.splitlines(), run.by.name]


def test_an_address_is_passed_on_as_it_is(tmp_path: Path) -> None:
    found = drivers(tmp_path, 'echo "$@"')
    found.start(submission("r1", "http://head:8265"))
    assert wait(found)[0].last_words == "resume r1 --store s --cluster http://head:8265"


def test_the_end_of_a_server_asks_its_drivers_to_stop(tmp_path: Path) -> None:
    found = drivers(tmp_path, "trap 'exit 85' TERM; while true; do sleep 0.05; done")
    found.start(submission("r1"))
    time.sleep(0.3)
    found.stop(20.0)
    assert len(found) == 0
