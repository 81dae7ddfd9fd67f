"""Completion in the shell: recipes, runs, stages; bash, which breaks words at colons; nothing heavy is imported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import cli
from orchestrator.commands.shared.completion import ColonBashComplete, joined_at_colons
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import KINDS, Illume, newest

illume = test_cli.illume


def completed(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """What bash is offered for the last of the words, as bash hands them over."""
    monkeypatch.setenv("COMP_WORDS", "\n".join(["illume", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    answer = ColonBashComplete(cli, {"obj": KINDS}, "illume", "_ILLUME_COMPLETE").complete()
    return [line.partition(",")[2] for line in answer.splitlines() if line.startswith("plain,")]


def test_words_are_joined_at_colons() -> None:
    assert joined_at_colons(["logs", "last", ":", "cur"]) == ["logs", "last:cur"]
    assert joined_at_colons(["logs", "last", ":"]) == ["logs", "last:"]
    assert joined_at_colons(["a", "b"]) == ["a", "b"]


def test_commands_and_recipes(illume: Illume, monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed(monkeypatch, "ex") == ["explain"]
    assert completed(monkeypatch, "run", "quick") == ["quickstart"]
    assert completed(monkeypatch, "run", "words.yaml", "--until", "") == ["said", "loud", "pair"]
    assert completed(monkeypatch, "run", "absent.yaml", "--until", "") == []


def test_runs_and_stages(illume: Illume, monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed(monkeypatch, "logs", "") == []
    illume("run", "words.yaml")
    run = newest(illume)["run_id"]
    assert completed(monkeypatch, "cancel", "") == ["last", "words", run]
    assert completed(monkeypatch, "logs", "wo") == ["words", "words:said", "words:loud", "words:pair"]
    assert completed(monkeypatch, "logs", "words", ":") == ["said", "loud", "pair"]
    assert completed(monkeypatch, "audit", run, ":", "lo") == ["loud"]
    assert completed(monkeypatch, "explain", "--against", "wor") == ["words"]
    assert completed(monkeypatch, "logs", "absent", ":") == []


def test_the_paths_of_settings(illume: Illume, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("run", "plan"):
        loud = completed(monkeypatch, command, "words.yaml", "--set", "stages.loud.")
        assert loud[:2] == ["stages.loud.config.times=", "stages.loud.config.fault="]
        assert "stages.loud.resources.workers=" in loud
        assert "stages.loud.retry.attempts=" in loud
        assert completed(monkeypatch, command, "words.yaml", "--set", "stages.said.config.") == [
            "stages.said.config.text="
        ]
    assert completed(monkeypatch, "run", "words.yaml", "--set", "stages.absent.") == []
    assert completed(monkeypatch, "run", "absent.yaml", "--set", "stages.") == []


def test_stages_of_a_run_complete_the_filter_of_its_logs(illume: Illume, monkeypatch: pytest.MonkeyPatch) -> None:
    illume("run", "words.yaml")
    assert completed(monkeypatch, "logs", "--stage", "") == ["said", "loud", "pair"]
    assert completed(monkeypatch, "events", "words", "--stage", "l") == ["loud"]


def test_kinds_and_their_keys(illume: Illume, monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed(monkeypatch, "kinds", "s") == ["say", "shout"]
    assert completed(monkeypatch, "kinds", "shout.") == ["shout.times", "shout.fault"]
    assert completed(monkeypatch, "kinds", "absent.") == []


def test_the_script_works_in_bash(illume: Illume, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed on this machine")
    illume("run", "words.yaml")
    (tmp_path / "completion.sh").write_text(illume("completion", "bash").out)
    (tmp_path / "illume").write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = {sys.path!r}\nfrom orchestrator.cli import main\nmain()\n"
    )
    (tmp_path / "illume").chmod(0o755)
    script = (
        "source completion.sh; COMP_WORDS=(illume logs last : l); COMP_CWORD=4; "
        '_illume_completion ./illume; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run([bash, "--norc", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["loud"], done.stderr


def test_completing_imports_no_heavy_packages(illume: Illume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    illume("run", "words.yaml")
    for name, value in {
        "_ILLUME_COMPLETE": "bash_complete",
        "COMP_WORDS": "illume\nlogs\nla",
        "COMP_CWORD": "2",
    }.items():
        monkeypatch.setenv(name, value)
    program = "import sys; from orchestrator.cli import main\ntry: main()\nfinally: print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert "plain,last" in done.stdout, done.stderr
    heavy = {"torch", "ray", "mlflow", "transformers", "pyarrow", "numpy"}
    assert heavy & set(done.stdout.split()) == set()
