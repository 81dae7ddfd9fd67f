"""`illume estimate` on the published recipes and on machines of a profile."""

from pathlib import Path

import pytest

from orchestrator.cli import exit_code
from tests.orchestrator.test_cli import Answer, Illume


@pytest.fixture
def illume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Illume:
    """The command line with the built-in kinds, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ILLUME_TRACKING", "none")

    def call(*arguments: str) -> Answer:
        code = exit_code(list(arguments))
        captured = capsys.readouterr()
        return Answer(code=code, out=captured.out, err=captured.err)

    return call


def test_published_recipe_on_several_machines(illume: Illume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    answer = illume("estimate", "illume_plus_7b", "--gpus", "64xH100", "--gpus", "64xB200")
    assert answer.code == 0
    rows = [line.split() for line in answer.out.splitlines()]
    assert ["tokenizer_256", "64xH100", "*"] in [row[:3] for row in rows]
    (stage_2,) = [line for line in answer.out.splitlines() if line.startswith("stage_2 ") and "64xH100" in line]
    assert "148.8 of 71.0" in stage_2
    assert "with strategy: fsdp2, shard_workers: 8" in stage_2
    assert "GPU hours" in answer.out
    assert "assumed: computing at 35% of the bf16 peak" in answer.out
    assert "unknown, never timed: " in answer.out


def test_json_has_every_figure_and_null_for_unknown(illume: Illume) -> None:
    found = illume("estimate", "illume_plus_3b", "--gpus", "8xL40S", "--json").data
    assert (found["format"], found["recipe"]) == (1, "illume_plus_3b")
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert stages["images_256"]["training"] is None
    stage = stages["stage_1"]
    assert stage["training"]["parameters"] == 4_073_174_752
    (machine,) = stage["machines"]
    assert machine["fits"] is True
    assert machine["cost"] is None  # no price of an L40S is listed
    assert sum(machine["parts_bytes"].values()) == pytest.approx(machine["needed_bytes"])
    assert machine["layout"]["workers"] == 8


def test_machines_of_a_profile_and_prices_of_a_team(illume: Illume, tmp_path: Path) -> None:
    profile, prices = tmp_path / "profile.yaml", tmp_path / "prices.yaml"
    profile.write_text("kind: ray\naddress: head:6379\nmachines: {train: {gpu: H200, gpus: 8, nodes: 8}}\n")
    prices.write_text("date: 2026-11-01\ncurrency: EUR\nper_gpu_hour: {H200-SXM: {on_demand: [2, 2]}}\n")
    found = illume("estimate", "illume_plus_3b", "--cluster", str(profile), "--prices", str(prices), "--json").data
    machine = next(stage for stage in found["stages"] if stage["stage"] == "stage_1")["machines"][0]
    assert machine["machine"] == "train"
    assert machine["cost"]["currency"] == "EUR"
    assert machine["cost"]["low"] == pytest.approx(2 * machine["gpu_hours"]["low"])


def test_without_machines_the_model_is_described(illume: Illume) -> None:
    answer = illume("estimate", "quickstart")
    assert answer.code == 0
    assert "no machines: give --gpus" in answer.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "64"], "expected a number and an accelerator"),
        (["--gpus", "64xH900"], "gpu: 'H900'"),
        (["--gpus", "8xH100", "--peak-share", "2"], "peak shares"),
        (["--gpus", "8xH100", "--prices", "nowhere.yaml"], "nowhere.yaml"),
        (["--gpus", "8xH100", "--checkpoint-gbs", "0"], "'--checkpoint-gbs': 0.0 is not in the range x>0"),
        (
            ["--gpus", "8xH100", "--hours-between-failures", "0"],
            "'--hours-between-failures': 0.0 is not in the range x>0",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_2(illume: Illume, arguments: list[str], message: str) -> None:
    answer = illume("estimate", "quickstart", *arguments)
    assert answer.code == 2
    assert message in answer.err
    assert "Traceback" not in answer.err


def test_a_profile_without_machines_says_what_to_add(illume: Illume, tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text("kind: ray\naddress: head:6379\n")
    answer = illume("estimate", "quickstart", "--cluster", str(profile))
    assert answer.code == 2
    assert "found no machine type with accelerators" in answer.err


def test_run_refuses_what_cannot_fit_before_it_connects(illume: Illume, tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text(
        "kind: ray\naddress: nowhere.invalid:6379\n"
        "machines: {train: {gpu: tiny, gpus: 1, usable_gib: 1.7, bf16_tflops: 1}}\n"
    )
    answer = illume("run", "quickstart", "--cluster", str(profile))
    assert answer.code == 2
    assert "does not fit the machines" in answer.err
    assert "GiB on each tiny (train)" in answer.err
