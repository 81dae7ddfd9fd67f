"""`illume audit` on folders: requested files are written, JSON output stays pure, mistakes are named."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.actor import ACTOR_VARIABLE
from orchestrator.cli import DATA_ADVICE, exit_code
from orchestrator.commands.audit import audit_command
from orchestrator.commands.shared.dataset_origin import dataset_origin
from orchestrator.commands.shared.targets import find_artifact
from orchestrator.workspace import Workspace
from tests.data_pipelines.ledger_rows import ledger_row, write_ledgers
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import KINDS, Illume

illume = test_cli.illume


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder with the datasets `now` and `then`."""
    monkeypatch.chdir(tmp_path)
    write_ledgers(Path("now"), [[ledger_row(number) for number in range(12)]])
    write_ledgers(Path("then"), [[ledger_row(number) for number in range(10)]])


@pytest.mark.usefixtures("versions")
def test_every_requested_file_is_written_and_stdout_is_json_only() -> None:
    descriptions = ["--croissant", "c.json", "--card", "README.md", "--creator", "A team", "--published", "2026-11-01"]
    arguments = ["now", "--against", "then", "--json", "--page", "page.html", "--decisions", "d.jsonl", *descriptions]
    done = CliRunner().invoke(audit_command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["drift"]["samples"]["added"] == 2
    for file in ("page.html", "d.jsonl", "c.json", "README.md"):
        assert Path(file).stat().st_size > 0
        assert file in done.stderr
    assert json.loads(Path("c.json").read_text())["datePublished"] == "2026-11-01"
    assert "Made by: A team" in Path("README.md").read_text()
    assert "Changes since then" in Path("page.html").read_text()


@pytest.mark.usefixtures("versions")
def test_without_another_version_nothing_is_compared() -> None:
    done = CliRunner().invoke(audit_command, ["now", "--no-page"], catch_exceptions=False)
    assert "12 records" in done.stdout
    assert "Against" not in done.stdout
    assert not Path("audit.html").exists()


@pytest.mark.usefixtures("versions")
def test_another_version_that_is_not_a_dataset_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert exit_code(["audit", "now", "--against", "empty", "--no-page"]) == 2
    message = "error: empty/dataset.json: no such file; expected the folder of a curated dataset"
    assert capsys.readouterr().err.splitlines() == [message, DATA_ADVICE]


def test_the_origin_names_run_recipe_identity_date_code_who_asked_and_all_thresholds(
    illume: Illume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ACTOR_VARIABLE, "alice")
    illume("run", "words.yaml", "--set", "stages.pair.gates.words.at_least=1", "--reason", "a first look")
    with Workspace.open(root=tmp_path / ".illume", tracking_url="none") as workspace:
        stored = find_artifact(workspace.artifacts, workspace.database, "last:pair")
        origin = dataset_origin(workspace.artifacts, workspace.runs, KINDS, stored)
    facts = dict(origin.facts)
    assert " of recipe words, plan " in facts["run"]
    assert facts["identity"] == stored.manifest.fingerprint
    assert facts["manifest SHA-256"] == stored.manifest_sha256
    assert re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", facts["made"])
    assert (facts["asked for by"], facts["reason"]) == ("alice", "a first look")
    assert facts["command"].startswith("illume run words.yaml --set stages.pair.gates")
    assert re.match(r"illume \d+\.\d+\.\d+.*, source digest [0-9a-f]{16}", facts["code"])
    found = {(item.stage, item.name): (item.value, item.is_default) for item in origin.thresholds}
    assert found["pair", "times"] == ("1", False)
    assert found["pair", "fault"] == ('""', True)
    assert found["loud", "times"] == ("2", False)
    assert found["pair", "gates.words.at_least"] == ("1.0", False)
    assert origin.evaluation_images == 0
