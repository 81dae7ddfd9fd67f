"""`illume queue`, `priority`, `approve`, and `index rebuild` of a queue."""

import shutil
import socket
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from orchestrator.commands.queue import place_to_json, queue_places
from orchestrator.history.run_status import run_status
from orchestrator.queue.entries import submission_of
from orchestrator.queue.records import Limits
from orchestrator.scheduler.approving import approval_waits, approve
from orchestrator.workspace import Workspace
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import RECIPE, Illume

illume = test_cli.illume


def submitted(illume: Illume, text: str, *arguments: str) -> str:
    found: str = illume("submit", "words.yaml", "--set", f"stages.said.config.text={text}", *arguments, "--json").data[
        "run_id"
    ]
    return found


def order(illume: Illume) -> list[str]:
    return [entry["run_id"] for entry in illume("queue", "--json").data["entries"]]


def test_a_changed_priority_changes_the_order_and_a_rebuilt_index_restores_it(illume: Illume, tmp_path: Path) -> None:
    first, second, third = (submitted(illume, text) for text in ("a", "b", "c"))
    assert order(illume) == [first, second, third]
    assert illume("priority", third, "2").out == f"run {third}: priority 2\n"
    assert illume("priority", second, "--", "-1").code == 0
    assert order(illume) == [third, first, second]
    before = illume("queue", "--json").data
    for file in (tmp_path / ".illume").glob("index.db*"):
        file.unlink()
    assert order(illume) == []
    assert illume("index", "rebuild", "--json").data["queue_records"] == 5
    assert illume("queue", "--json").data == before


def test_schedules_budgets_and_approvals_survive_the_database(illume: Illume, tmp_path: Path) -> None:
    pytest.importorskip("cronsim", reason="no cronsim here: pip install cronsim")
    (tmp_path / "words.yaml").write_text(RECIPE.replace("config: {times: 2}", "config: {times: 2}, approval: true"))
    run_id = submitted(illume, "a", "--budget", "gpu_hours=5")
    approved = ("approve", f"{run_id}:loud", "--note", "looks right")
    assert illume(*approved).code == 0
    for name, pause in (("nightly", True), ("daily", False)):
        assert illume("schedule", "add", "words.yaml", "--name", name, "--cron", "30 2 * * *").code == 0
        assert not pause or illume("schedule", "pause", name).code == 0
    assert illume("budget", "set", "user:ada", "gpu_hours=5", "money=7").code == 0

    def known() -> list[object]:
        lists = (("queue",), ("schedule", "list"), ("budget", "list"), ("status", run_id, "--cost"))
        return [illume(*words, "--json").data for words in lists]

    before = known()
    for file in (tmp_path / ".illume").glob("index.db*"):
        file.unlink()
    illume("index", "rebuild")
    assert known() == before
    assert "has approved it already, at " in illume(*approved).err
    assert illume("resume", run_id).code == 0


def test_what_only_the_store_knows_is_in_the_queue(illume: Illume, tmp_path: Path) -> None:
    """A submit that dies after it wrote the record."""
    run_id = submitted(illume, "a")
    with sqlite3.connect(tmp_path / ".illume/index.db") as connection:
        connection.execute("delete from queue_records")
    assert order(illume) == [run_id]


def test_only_runs_in_the_queue_have_a_priority(illume: Illume) -> None:
    run_id = submitted(illume, "a")
    illume("cancel", run_id)
    answer = illume("priority", run_id, "3")
    assert answer.code == 2
    assert f"run {run_id}: is CANCELLED and not in the queue" in answer.err


def test_people_see_the_queue_as_a_table(illume: Illume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run_id = submitted(illume, "a", "--priority", "4")
    head, row = illume("queue").out.splitlines()
    assert head.split() == ["run", "recipe", "who", "priority", "state", "waits", "for", "expected", "in"]
    assert row.split()[:3] == ["1", run_id, "words"]


def test_a_run_has_the_same_pool_before_and_after_its_driver_came(illume: Illume, tmp_path: Path) -> None:
    run_id = submitted(illume, "a")
    (waiting,) = illume("queue", "--json").data["entries"]
    with Workspace.open(root=tmp_path / ".illume", tracking_url="none") as workspace:
        assert workspace.leases.acquire(f"run:{run_id}") is not None
        (driven,) = [place_to_json(place) for place in queue_places(workspace)]
    assert (waiting["state"], driven["state"]) == ("WAITING", "RUNNING")
    assert driven["pool"] == waiting["pool"] == f"machine {socket.gethostname()}"


def test_a_stage_waits_for_the_word_of_a_person(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text(RECIPE.replace("config: {times: 2}", "config: {times: 2}, approval: true"))
    run_id = submitted(illume, "a")
    refused = illume("approve", f"{run_id}:nosuch", "--note", "fine")
    assert refused.code == 2
    assert illume("approve", run_id, "--note", "fine").code == 2
    assert "found no note" in illume("approve", f"{run_id}:loud", "--note", " ").err
    nobody = illume("approve", f"{run_id}:said", "--note", "fine")
    assert nobody.code == 2
    assert f"{run_id}:said: asks nobody" in nobody.err
    assert f"{run_id}:loud: approved by " in illume("approve", f"{run_id}:loud", "--note", "looks right").out
    again = illume("approve", f"{run_id}:loud", "--note", "me too")
    assert again.code == 2
    assert "has approved it already, at " in again.err
    assert "looks right" in again.err
    assert illume("resume", run_id).code == 0


def test_a_run_that_waits_for_a_person_says_so_and_goes_on_when_told(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text(RECIPE.replace("config: {times: 2}", "config: {times: 2}, approval: true"))
    run_id = submitted(illume, "a")
    waits: list[str] = []

    def a_person_looks() -> None:
        """Waits until the stage before is done, and the run stands still for somebody."""
        with Workspace.open(root=tmp_path / ".illume", tracking_url="none") as workspace:
            give_up_at = time.monotonic() + 60
            while time.monotonic() < give_up_at:
                stages = {stage.stage_id: stage for stage in run_status(workspace.database, run_id).stages}
                if "loud" in stages and approval_waits(stages["loud"]):
                    waits.append(f"{stages['said'].state} {stages['loud'].waiting_for}")
                    approve(workspace, run_id, "loud", "looks right")
                    return
                time.sleep(0.02)
            workspace.cancel(run_id)

    person = threading.Thread(target=a_person_looks)
    person.start()
    assert illume("resume", run_id).code == 0
    person.join()
    assert waits == [f"COMMITTED a person's approval: `illume approve {run_id}:loud`"]


@pytest.mark.parametrize("end", ["cancel", "resume"])
def test_what_waits_for_nothing_any_more_is_not_approved(illume: Illume, tmp_path: Path, end: str) -> None:
    (tmp_path / "words.yaml").write_text(RECIPE.replace("config: {times: 2}", "config: {times: 2}, approval: true"))
    run_id = submitted(illume, "a")
    if end == "resume":  # another run makes the stage
        assert illume("approve", f"{run_id}:loud", "--note", "fine").code == 0
        assert illume("resume", run_id).code == 0
    else:
        illume("cancel", run_id)
    refused = illume("approve", f"{run_id}:loud", "--note", "fine")
    assert refused.code in (1, 2)
    assert ("its run is CANCELLED" if end == "cancel" else "has approved it already") in refused.err


def test_approval_is_true_or_false(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text(RECIPE.replace("config: {times: 2}", "config: {times: 2}, approval: ask"))
    answer = illume("plan", "words.yaml")
    assert answer.code == 2
    assert "stages.loud.approval: found 'ask' (text), expected true or false" in answer.err


def failed_run(illume: Illume, tmp_path: Path) -> str:
    """A submitted run whose stage has failed; it would not any more."""
    fault = tmp_path / "fault"
    fault.write_text("fail")
    run_id = submitted(illume, "a", "--set", f"stages.loud.config.fault={fault}")
    assert illume("resume", run_id).code == 1
    fault.unlink()
    return run_id


def test_a_run_that_failed_is_queued_again_by_each_door_and_only_once(illume: Illume, tmp_path: Path) -> None:
    run_id = failed_run(illume, tmp_path)
    assert order(illume) == []
    assert illume("requeue", run_id, "--json").data["run_id"] == run_id
    assert order(illume) == [run_id]
    again = illume("requeue", run_id)
    assert again.code == 2
    assert f"run {run_id}: is in the queue already; nothing more was done" in again.err
    assert illume("resume", run_id).code == 0
    assert order(illume) == []
    assert "has succeeded; there is nothing to go on with" in illume("requeue", run_id).err
    assert "all that its stages make exists" in illume("requeue", run_id, "--anew").err


def test_submitting_a_recipe_whose_run_failed_queues_that_run(illume: Illume, tmp_path: Path) -> None:
    run_id = failed_run(illume, tmp_path)
    fault = tmp_path / "fault"
    assert submitted(illume, "a", "--set", f"stages.loud.config.fault={fault}") == run_id
    assert order(illume) == [run_id]


def test_a_new_run_of_the_same_stages_is_queued_with_the_cluster_and_the_budget(illume: Illume, tmp_path: Path) -> None:
    run_id = submitted(illume, "a", "--budget", "gpu_hours=5")
    illume("cancel", run_id)
    new = illume("requeue", run_id, "--anew", "--json").data["run_id"]
    assert new != run_id
    assert order(illume) == [new]
    with Workspace.open(root=tmp_path / ".illume", tracking_url="none") as workspace:
        found = submission_of(workspace.database, new)
    assert found is not None
    assert found.limits == Limits(gpu_hours=5.0)
    answer = illume("requeue", run_id, "--anew")
    assert answer.code == 2
    assert f"run {new} of " in answer.err


def test_a_run_that_may_have_been_on_a_cluster_is_not_queued_for_this_machine(illume: Illume, tmp_path: Path) -> None:
    gpus = "config: {times: 2}, resources: {gpus: 1}"
    (tmp_path / "words.yaml").write_text(RECIPE.replace("config: {times: 2}", gpus))
    illume("cancel", submitted(illume, "a"))
    shutil.rmtree(tmp_path / ".illume/store/queue")
    with sqlite3.connect(tmp_path / ".illume/index.db") as connection:
        connection.execute("delete from queue_records")  # as if it had been started by `illume run`
    answer = illume("requeue", "words")
    assert answer.code == 2
    assert "no record says where: `illume requeue" in answer.err
    (tmp_path / "profile.yaml").write_text("kind: local\n")
    assert illume("requeue", "words", "--cluster", "profile.yaml").code == 0
    assert len(order(illume)) == 1
