"""The command line, from one end to the other, with small stages that need no Ray."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import TerminalHandler, exit_code
from orchestrator.errors import EXIT_REQUEUE, CancelledError
from orchestrator.stage import Slot, StageContext, StageKind

STUBBORN_S = 60.0
RECIPE = """\
name: words
stages:
  said: {kind: say, config: {text: hello}}
  loud: {kind: shout, inputs: {words: said}, config: {times: 2}}
  pair: {kind: shout, inputs: {words: loud}, config: {times: 1}}
"""


@dataclass(frozen=True, kw_only=True)
class SayConfig:
    text: str


@dataclass(frozen=True, kw_only=True)
class ShoutConfig:
    times: int
    trouble: str = ""


def say(config: SayConfig, context: StageContext) -> Mapping[str, float]:
    (context.output / "words.txt").write_text(config.text)
    return {"words": 1.0}


def shout(config: ShoutConfig, context: StageContext) -> Mapping[str, float]:
    trouble = Path(config.trouble)
    if config.trouble and trouble.exists():
        if trouble.read_text() == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            wait_for_stop(context)
        if trouble.read_text() == "ignore stops":
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1.0)
            time.sleep(STUBBORN_S)
        raise RuntimeError("out of breath")
    context.tracker.progress(config.times, config.times, "shouts")
    words = (context.input("words").path / "words.txt").read_text()
    (context.output / "words.txt").write_text(words.upper() * config.times)
    return {"words": float(config.times)}


def wait_for_stop(context: StageContext) -> None:
    give_up_at = time.monotonic() + 20.0
    while not context.stop_requested() and time.monotonic() < give_up_at:
        time.sleep(0.01)
    raise CancelledError(f"{context.stage_id}: stopped")


def mistaken_sources(_config: ShoutConfig) -> Mapping[str, Path]:
    raise TypeError("a mistake of ours")


SAY = StageKind(name="say", version=1, config=SayConfig, run=say, output="words@1")
SHOUT = StageKind(
    name="shout", version=1, config=ShoutConfig, run=shout, output="words@1", inputs={"words": Slot(kind="words@1")}
)
MISTAKEN = StageKind(
    name="mistaken", version=1, config=ShoutConfig, run=shout, output="words@1", sources=mistaken_sources
)
KINDS = {kind.name: kind for kind in (SAY, SHOUT, MISTAKEN)}


@dataclass(frozen=True, kw_only=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Illume = Callable[..., Answer]


@pytest.fixture
def illume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Illume:
    """The command line in an empty folder that holds the recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ILLUME_TRACKING", "none")
    (tmp_path / "words.yaml").write_text(RECIPE)

    def call(*arguments: str) -> Answer:
        code = exit_code(list(arguments), KINDS)
        captured = capsys.readouterr()
        return Answer(code=code, out=captured.out, err=captured.err)

    return call


def actions(illume: Illume, *arguments: str) -> dict[str, str]:
    plan = illume("plan", "words.yaml", "--json", *arguments).data
    return {stage["id"]: stage["action"] for stage in plan["stages"]}


def newest(illume: Illume) -> dict[str, Any]:
    runs: list[dict[str, Any]] = illume("status", "--json").data
    return runs[0]


def test_a_recipe_runs_and_is_done(illume: Illume) -> None:
    answer = illume("run", "words.yaml")
    assert answer.code == 0, answer.err
    assert "3 to run, 0 reused, 0 skipped" in answer.out
    assert "pair: done" in answer.out
    assert actions(illume) == dict.fromkeys(("said", "loud", "pair"), "reuse")
    again = illume("run", "words.yaml")
    assert (again.code, again.out) == (0, f"nothing to run: everything exists since run {newest(illume)['run_id']}\n")


def test_a_changed_value_runs_what_depends_on_it_and_says_so(illume: Illume) -> None:
    illume("run", "words.yaml")
    override = ("--set", "stages.loud.config.times=3")
    plan = illume("plan", "words.yaml", *override)
    assert re.search(r"said +say +reuse", plan.out)
    assert re.search(r"loud +shout +run +config\.times: 2 -> 3", plan.out)
    assert re.search(r"pair +shout +run +upstream re-runs: loud", plan.out)
    assert "2 to run, 1 reused, 0 skipped; about" in plan.out
    assert illume("run", "words.yaml", *override).code == 0
    assert set(actions(illume, *override).values()) == {"reuse"}


def test_a_forced_stage_is_made_again(illume: Illume) -> None:
    illume("run", "words.yaml")
    assert illume("run", "words.yaml", "--force", "loud").code == 0
    status = illume("status", newest(illume)["run_id"], "--json").data
    assert {stage["stage_id"]: stage["state"] for stage in status["stages"]} == {
        "said": "REUSED",
        "loud": "COMMITTED",
        "pair": "COMMITTED",
    }


def test_a_forced_run_that_was_cut_off_is_carried_to_its_end(illume: Illume, tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    command = ("run", "words.yaml", "--set", f"stages.loud.config.trouble={trouble}")
    illume(*command)
    trouble.write_text("interrupt")
    assert illume(*command, "--force", "loud").code == EXIT_REQUEUE
    cut_off = newest(illume)["run_id"]
    trouble.unlink()
    assert f"continuing run {cut_off}" in illume(*command).err
    status = illume("status", cut_off, "--json").data
    assert [stage["state"] for stage in status["stages"]] == ["REUSED", "COMMITTED", "COMMITTED"]


def test_a_failed_stage_ends_with_1_and_resume_goes_on(illume: Illume, tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.write_text("fail")
    failed = illume("run", "words.yaml", "--set", f"stages.loud.config.trouble={trouble}")
    assert failed.code == 1
    assert "out of breath" in failed.err
    assert "held back: pair" in failed.err
    run_id = newest(illume)["run_id"]
    assert "out of breath" in illume("logs", run_id, "loud").out
    trouble.unlink()
    assert illume("resume").code == 0
    assert newest(illume)["state"] == "SUCCEEDED"
    assert newest(illume)["run_id"] == run_id
    assert illume("resume", run_id).out == f"run {run_id} is done; `illume run` makes a new plan\n"


def test_ctrl_c_stops_cleanly_and_running_again_continues_the_same_run(illume: Illume, tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.write_text("interrupt")
    command = ("run", "words.yaml", "--set", f"stages.loud.config.trouble={trouble}")
    before = signal.getsignal(signal.SIGINT)
    stopped = illume(*command)
    assert signal.getsignal(signal.SIGINT) is before
    assert stopped.code == EXIT_REQUEUE
    assert "Ctrl-C: stopping at the next commit point" in stopped.err
    assert "stopped; not done: loud, pair" in stopped.err
    cut_off = newest(illume)
    assert cut_off["state"] == "INTERRUPTED"
    trouble.unlink()
    again = illume(*command)
    assert again.code == 0, again.err
    assert f"continuing run {cut_off['run_id']}" in again.err
    assert newest(illume)["epoch"] == 2
    kinds = [json.loads(line) for line in illume("events", "--json").out.splitlines()]
    assert [event["stage"] for event in kinds if event["fields"].get("to") == "COMMITTED"] == ["said", "loud", "pair"]


def test_other_resources_make_a_new_run_that_reuses_what_is_there(illume: Illume, tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.write_text("fail")
    command = ("run", "words.yaml", "--set", f"stages.loud.config.trouble={trouble}")
    assert illume(*command).code == 1
    failed = newest(illume)["run_id"]
    trouble.unlink()
    again = illume(*command, "--set", "stages.loud.resources.workers=2")
    assert again.code == 0, again.err
    assert "continuing" not in again.err
    assert newest(illume)["run_id"] != failed
    status = illume("status", "words", "--json").data
    assert [stage["state"] for stage in status["stages"]] == ["REUSED", "COMMITTED", "COMMITTED"]


def test_a_second_ctrl_c_ends_at_once_and_running_again_continues(illume: Illume, tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.write_text("ignore stops")
    command = ["run", "words.yaml", "--set", f"stages.loud.config.trouble={trouble}"]
    program = f"import runpy, sys; sys.exit(runpy.run_path({__file__!r})['ctrl_c_twice']({command!r}))"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert time.monotonic() - started < STUBBORN_S, "the stage goes on for longer than that"
    assert (done.returncode, "stopped at once" in done.stderr) == (EXIT_REQUEUE, True)
    trouble.unlink()
    again = illume(*command)
    assert again.code == 0, again.err
    assert "continuing run" in again.err


def ctrl_c_twice(command: list[str]) -> int:
    """In a process of its own, because it ends there."""
    return exit_code(command, KINDS)


def test_json_prints_every_event_once_and_nothing_else(illume: Illume) -> None:
    events = [json.loads(line) for line in illume("run", "words.yaml", "--json").out.splitlines()]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["kind"] == "run_created"
    assert events[-1]["fields"]["to"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "wods"], "found no recipe 'wods'"),
        (["plan", "absent.yaml"], "absent.yaml: found no such recipe file"),
        (["plan", "words.yaml", "--set", "stages.loud.config.tims=3"], "unknown key; did you mean 'times'?"),
        (["run", "words.yaml", "--force", "lod"], "--force: found no stage 'lod'; did you mean 'loud'?"),
        (["run", "words.yaml", "--only", "loud"], "found no output of said, which is needed"),
        (["pln", "words.yaml"], "no such command 'pln'; did you mean 'plan'?"),
        (["plan", "words.yaml", "--colour"], "No such option"),
        (["status", "absent"], "found no run 'absent'"),
        (["resume"], "found no run in the database"),
        (["cancel"], "found no run in the database"),
        (["lineage", "words:said"], "found no run 'words'"),
        (["plan", "words.yaml", "--store", "ftp://host/x"], "found an address that starts with 'ftp://'"),
    ],
)
def test_a_mistake_in_the_command_ends_with_2_and_no_traceback(
    illume: Illume, arguments: list[str], message: str
) -> None:
    answer = illume(*arguments)
    assert answer.code == 2
    assert message in answer.err
    assert "Traceback" not in answer.err


def test_where_to_run_comes_from_a_profile(illume: Illume, tmp_path: Path) -> None:
    profile = tmp_path / "here.yaml"
    profile.write_text("kind: local\ncpus: 2\n")
    assert illume("run", "words.yaml", "--cluster", str(profile)).code == 0
    profile.write_text("kind: ray\naddress: nowhere\n")
    refused = illume("run", "words.yaml", "--cluster", str(profile))
    assert refused.code == 2
    assert "address: found 'nowhere', expected 'host:port'" in refused.err
    missing = illume("resume", "--cluster", "absent.yaml")
    assert missing.code == 2
    assert "absent.yaml" in missing.err


def test_a_warning_that_comes_again_is_shown_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    handler = TerminalHandler(logging.WARNING)
    for second, text in enumerate(["gone; again in 0.5 s", "gone; again in 1.1 s", "worker 1 lost", "worker 2 lost"]):
        record = logging.makeLogRecord({"msg": text, "levelno": logging.WARNING, "created": float(second)})
        handler.handle(record)
    handler.handle(logging.makeLogRecord({"msg": "gone; again in 9.5 s", "created": 61.0}))
    shown = ["gone; again in 0.5 s", "worker 1 lost", "worker 2 lost", "gone; again in 9.5 s"]
    assert capsys.readouterr().err.splitlines() == shown


def test_a_mistake_of_ours_is_a_note_and_a_traceback_in_the_log(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text("name: x\nstages:\n  a: {kind: mistaken, config: {times: 1}}\n")
    answer = illume("plan", "words.yaml")
    assert answer.code == 1
    assert answer.err.startswith("error: this is a mistake in illume, not in your input: TypeError: a mistake of ours")
    assert "Traceback" not in answer.err
    assert "mistaken_sources" in (tmp_path / ".illume" / "illume.log").read_text()


def test_a_finished_run_cannot_be_cancelled(illume: Illume) -> None:
    illume("run", "words.yaml")
    answer = illume("cancel", "words")
    assert (answer.code, "found it succeeded" in answer.err) == (2, True)


def test_explain_shows_the_identity_and_what_changed(illume: Illume) -> None:
    illume("run", "words.yaml")
    first = newest(illume)["run_id"]
    illume("run", "words.yaml", "--set", "stages.loud.config.times=3")
    shown = illume("explain", "loud").out
    assert "loud: run  shout version 1" in shown
    assert "why: config.times: 2 -> 3" in shown
    assert '"times": 3' in shown
    compared = illume("explain", "words", "--against", first).out
    assert f"against {first}: config.times: 2 -> 3" in compared
    assert f"against {first}: inputs differ" in compared
    assert f"against {first}: nothing differs" in compared


def test_lineage_goes_both_ways(illume: Illume) -> None:
    illume("run", "words.yaml")
    graph = illume("lineage", "words:loud", "--json").data
    assert (len(graph["nodes"]), len(graph["edges"])) == (3, 2)
    assert len(illume("lineage", "words:loud", "--direction", "up", "--json").data["nodes"]) == 2
    assert illume("lineage", graph["nodes"][0]["fingerprint"][:12]).code == 0


def test_verify_finds_damage_and_heals_it(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    assert "3 artifacts checked, nothing is damaged" in illume("verify").out
    damaged = next(file for file in (tmp_path / ".illume" / "store").rglob("words.txt") if file.read_text() == "hello")
    damaged.chmod(0o644)
    damaged.write_text("hallo")
    found = illume("verify")
    assert (found.code, "1 damaged" in found.out) == (1, True)
    assert illume("verify", "words:said", "--heal").code == 0
    assert actions(illume) == {"said": "skip", "loud": "reuse", "pair": "reuse"}


def test_the_index_is_rebuilt_from_the_store(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    run = newest(illume)["run_id"]
    for file in (tmp_path / ".illume").glob("index.db*"):
        file.unlink()
    assert illume("status").out.startswith("no runs yet")
    assert illume("index", "rebuild", "--json").data["runs"] == 1
    assert newest(illume)["run_id"] == run


def test_gc_lists_without_deleting(illume: Illume) -> None:
    illume("run", "words.yaml")
    assert illume("gc").out == "can go: nothing; 0 B\n"


def test_doctor_answers_every_question(illume: Illume) -> None:
    findings = {finding["name"]: finding for finding in illume("doctor", "--json").data}
    assert {"python", "ray", "torch", "store", "database", "disk", "memory"} <= findings.keys()
    assert findings["store"]["is_ok"]


def test_quick_commands_load_nothing_heavy(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    heavy = {"torch", "ray", "mlflow", "transformers", "diffusers", "pyarrow"}
    assert loaded_by([["status"], ["plan", "absent.yaml"], ["events"], ["recipes"]], tmp_path) & heavy == set()


def test_help_loads_next_to_nothing(tmp_path: Path) -> None:
    loaded = loaded_by([["--help"]], tmp_path)
    assert "click" in loaded
    assert loaded & {"sqlalchemy", "pydantic", "rich", "yaml", "numpy", "stages"} == set()


def loaded_by(commands: list[list[str]], folder: Path) -> set[str]:
    """Top-level modules after these command lines in a process of its own."""
    program = (
        "import json, sys\n"
        "from orchestrator.cli import TerminalHandler, exit_code\n"
        f"for command in {commands!r}: exit_code(command)\n"
        "print('\\nLOADED', json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.rpartition("LOADED ")[2]))
