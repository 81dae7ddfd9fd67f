"""The command line: mistakes, bugs, warnings, signals and imports; also the small recipe of other tests."""

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import click
import pytest

from orchestrator.cli import DATA_ADVICE, TerminalHandler, cli, exit_code
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
    fault: str = ""


def say(config: SayConfig, context: StageContext) -> Mapping[str, float]:
    (context.output / "words.txt").write_text(config.text)
    return {"words": 1.0}


def shout(config: ShoutConfig, context: StageContext) -> Mapping[str, float]:
    fault = Path(config.fault)
    if config.fault and fault.exists():
        if fault.read_text() == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            wait_for_stop(context)
        if fault.read_text() == "ignore stops":
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
    deadline_s = time.monotonic() + 20.0
    while not context.stop_requested() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    raise CancelledError(f"{context.stage_id}: stopped")


def faulty_sources(_config: ShoutConfig) -> Mapping[str, Path]:
    raise TypeError("a bug of ours")


SAY = StageKind(name="say", version=1, config=SayConfig, run=say, output="words@1")
SHOUT = StageKind(
    name="shout",
    version=1,
    config=ShoutConfig,
    run=shout,
    output="words@1",
    inputs={"words": Slot(kind="words@1")},
    warnings=lambda metrics: ["nobody listens that long"] if metrics["words"] > 8 else [],
)


class DamagedTableError(ValueError):
    """As other rooms declare that data are at fault."""

    failure_class = "data"


def damaged_needs(_config: ShoutConfig) -> Mapping[str, str]:
    raise DamagedTableError("ledger/a.parquet: not a ledger that can be read")


DAMAGED = StageKind(name="damaged", version=1, config=ShoutConfig, run=shout, output="words@1", needs=damaged_needs)
FAULTY = StageKind(name="faulty", version=1, config=ShoutConfig, run=shout, output="words@1", sources=faulty_sources)
KINDS = {kind.name: kind for kind in (SAY, SHOUT, FAULTY, DAMAGED)}


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
    runs: list[dict[str, Any]] = illume("status", "--json").data["runs"]
    return runs[0]


def test_a_second_ctrl_c_exits_at_once_and_running_again_continues(illume: Illume, tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.write_text("ignore stops")
    command = ["run", "words.yaml", "--set", f"stages.loud.config.fault={fault}"]
    program = f"import runpy, sys; sys.exit(runpy.run_path({__file__!r})['ctrl_c_twice']({command!r}))"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert time.monotonic() - started < STUBBORN_S, "the stage goes on for longer than that"
    assert (done.returncode, "stopped at once" in done.stderr) == (EXIT_REQUEUE, True)
    fault.unlink()
    again = illume(*command)
    assert again.code == 0, again.err
    assert "continuing run" in again.err


def ctrl_c_twice(command: list[str]) -> int:
    """In a process of its own, because it ends there."""
    return exit_code(command, KINDS)


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
def test_a_mistake_in_the_command_exits_with_2_and_no_traceback(
    illume: Illume, arguments: list[str], message: str
) -> None:
    answer = illume(*arguments)
    assert answer.code == 2
    assert message in answer.err
    assert "Traceback" not in answer.err


def test_a_repeated_warning_is_shown_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    handler = TerminalHandler(logging.WARNING)
    for second, text in enumerate(["gone; again in 0.5 s", "gone; again in 1.1 s", "worker 1 lost", "worker 2 lost"]):
        record = logging.makeLogRecord({"msg": text, "levelno": logging.WARNING, "created": float(second)})
        handler.handle(record)
    handler.handle(logging.makeLogRecord({"msg": "gone; again in 9.5 s", "created": 61.0}))
    shown = ["gone; again in 0.5 s", "worker 1 lost", "worker 2 lost", "gone; again in 9.5 s"]
    assert capsys.readouterr().err.splitlines() == shown


def test_a_bug_prints_a_note_and_writes_a_traceback_to_the_log(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text("name: x\nstages:\n  a: {kind: faulty, config: {times: 1}}\n")
    answer = illume("plan", "words.yaml")
    assert answer.code == 1
    assert answer.err.startswith("error: this is a bug in illume, not in your input: TypeError: a bug of ours")
    assert "Traceback" not in answer.err
    assert not (tmp_path / ".illume").exists(), "only a run makes a workspace"
    log = answer.err.split("The traceback is in ")[1].split(". Committed")[0]
    assert "faulty_sources" in Path(log).read_text()


def test_an_error_in_the_data_is_not_called_a_bug(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text("name: x\nstages:\n  a: {kind: damaged, config: {times: 1}}\n")
    answer = illume("run", "words.yaml")
    assert answer.code == 2
    assert answer.err.splitlines() == ["error: ledger/a.parquet: not a ledger that can be read", DATA_ADVICE]


def test_quick_commands_import_no_heavy_packages(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    heavy = {"torch", "ray", "mlflow", "transformers", "diffusers", "pyarrow"}
    commands = ["status", "plan absent.yaml", "events", "recipes", "kinds curate", "schema", "show", "path", "du"]
    assert loaded_by([command.split() for command in commands], tmp_path) & heavy == set()


def test_help_imports_almost_nothing(tmp_path: Path) -> None:
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


def commands_of(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, those of groups too."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {below}", found) for below, found in commands_of(command, context))
        else:
            yield name, command


def test_each_command_shows_examples_that_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = click.Context(cli, info_name="illume")
    for name, command in commands_of(cli, root):
        lines = [line.strip() for line in (command.epilog or "").splitlines() if line.strip().startswith("illume ")]
        assert lines, f"illume {name} has no example"
        for line in lines:
            words = shlex.split(line, comments=True)
            words = list(takewhile(lambda word: word not in (">", ">>", "|"), words))
            expected = ["illume", *name.split()]
            assert words[: len(expected)] == expected, f"{line}: an example of another command"
            for word in words:
                if Path(word).suffix in (".png", ".jpg", ".json", ".pem"):
                    Path(word).touch()
            command.make_context(name, words[len(expected) :], parent=root)  # raises what a user would read
