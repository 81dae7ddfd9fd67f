"""`illume trace` of the folder that a spike left, whole and damaged. The rest: tests/end_to_end/test_recipe.py."""

import json
from pathlib import Path

import pytest

from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume
from tests.stages.training.watching.test_spike_report import REPORT

illume = test_cli.illume


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "spike-step-24"
    found.mkdir()
    (found / "spike.json").write_text(json.dumps(REPORT))
    return found


def test_it_is_shown_where_no_run_is_known(illume: Illume, folder: Path) -> None:
    shown = illume("trace", str(folder))
    assert shown.code == 2
    assert shown.out.startswith(str(REPORT["message"]))
    assert "found no run in the database" in shown.err


@pytest.mark.parametrize(
    "content",
    [
        "",
        json.dumps(REPORT)[:200],
        json.dumps([REPORT]),
        json.dumps(REPORT | {"samples": [{"samples": ["row-7"], "losses": {}}]}),
        json.dumps(REPORT | {"samples": [{"samples": ["row-7"], "losses": [], "worker": 0, "micro_batch": 0}]}),
    ],
    ids=["empty", "cut off", "a list", "a sample without its worker", "losses without kinds"],
)
def test_a_damaged_report_is_named_in_a_line(illume: Illume, folder: Path, content: str) -> None:
    (folder / "spike.json").write_text(content)
    refused = illume("trace", str(folder))
    assert refused.code == 2
    assert f"{folder}/spike.json: not the report of a spike" in refused.err
    assert "Traceback" not in refused.err


def test_a_folder_that_no_spike_left_is_named(illume: Illume, folder: Path) -> None:
    (folder / "spike.json").unlink()
    refused = illume("trace", str(folder))
    assert refused.code == 2
    assert f"{folder}: a folder without spike.json" in refused.err
