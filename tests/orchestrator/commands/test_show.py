"""`illume show` and `illume path`; a run ends with the same lines, also a run that failed."""

import re
from pathlib import Path

from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume, newest

illume = test_cli.illume


def test_a_run_ends_with_what_came_out_where_and_what_to_type_next(illume: Illume, tmp_path: Path) -> None:
    lines = illume("run", "words.yaml").out.splitlines()
    end = lines[next(number for number, line in enumerate(lines) if " is done, " in line) + 1 :]
    assert end[0].split() == ["said", "words", "1"]
    assert re.fullmatch(r" +say [0-9a-f]{12}", end[1])  # in short; whole by `illume path`
    folder = Path(illume("path", "words:said").out.strip())
    assert (folder / "words.txt").read_text() == "hello"
    assert f"/say/{end[1].split()[1][:2]}/{end[1].split()[1]}" in str(folder)
    assert end[-4:] == ["next:", "  illume show words:pair", "  illume path words:pair", "  illume du words"]
    assert illume("show", "last").out.splitlines()[1:] == end


def test_a_failed_run_ends_with_what_was_made_and_the_way_on(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "fault").write_text("")
    answer = illume("run", "words.yaml", "--set", f"stages.loud.config.fault={tmp_path / 'fault'}")
    assert answer.code == 1
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in answer.err.splitlines() if line.strip()}
    assert (rows["said"], rows["loud"], rows["pair"]) == ("words 1", "FAILED", "NOT_RUN")
    assert "  illume logs words:loud\n  illume resume words\n" in answer.err
    assert answer.err.strip().splitlines()[-1].startswith("error: ") or "out of breath" in answer.err


def test_one_stage_is_shown_with_metrics_and_files(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    shown = illume("show", "words:loud").out
    assert "loud: COMMITTED in " in shown
    assert "10 Bytes  words.txt" in shown
    assert "  illume explain words:loud" in shown
    (stage,) = illume("show", "words:loud", "--json").data["stages"]
    assert (stage["metrics"], stage["bytes"], stage["state"]) == ({"words": 2.0}, 10, "COMMITTED")
    assert stage["made_by_run"] == newest(illume)["run_id"]


def test_warnings_stand_below_what_they_are_about(illume: Illume) -> None:
    quiet = illume("run", "words.yaml").out
    loud = illume("run", "words.yaml", "--set", "stages.loud.config.times=9").out
    assert "warning" not in quiet
    words = "warning: nobody listens that long"
    lines = [line.strip() for line in loud.splitlines()]
    assert lines[lines.index(words) - 2].split() == ["loud", "words", "9"]
    assert f"  {words}" in illume("show", "last:loud").out
    assert illume("show", "last:loud", "--json").data["stages"][0]["warnings"] == ["nobody listens that long"]


def test_an_earlier_run_is_named_by_its_id(illume: Illume) -> None:
    illume("run", "words.yaml")
    first = newest(illume)["run_id"]
    illume("run", "words.yaml", "--set", "stages.loud.config.times=3")
    assert illume("show", first, "--json").data["next"][0] == f"illume show {first}:pair"
    reused = illume("show", "last:said", "--json").data["stages"][0]
    assert (reused["state"], reused["made_by_run"], reused["headline"]) == ("REUSED", first, "words 1")


def test_path_prints_the_folder_and_nothing_else(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    answer = illume("path", "last:loud")
    assert (Path(answer.out.removesuffix("\n")) / "words.txt").read_text() == "HELLOHELLO"
    assert Path(answer.out).is_absolute()
    assert list(Path(illume("path").out.strip()).glob("loud-*"))


def test_path_of_what_was_not_made_is_an_error(illume: Illume, tmp_path: Path) -> None:
    (tmp_path / "fault").write_text("")
    illume("run", "words.yaml", "--set", f"stages.loud.config.fault={tmp_path / 'fault'}")
    answer = illume("path", "last:loud")
    assert (answer.code, answer.out) == (2, "")
    assert "stage 'loud' has no files; found it FAILED, expected it to be done" in answer.err
