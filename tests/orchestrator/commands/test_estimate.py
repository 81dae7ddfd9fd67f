"""`illume estimate` on the published recipes and on machines of a profile."""

from pathlib import Path

import pytest

from orchestrator.artifact import JSON, ArtifactKey, Fingerprint
from orchestrator.attempt_id import AttemptId
from orchestrator.cli import exit_code
from orchestrator.history.attempts import AttemptIntent, StageRow
from orchestrator.history.events import AttemptState
from orchestrator.history.leases import Leases
from orchestrator.workspace import Workspace
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


def trained_once(folder: Path, recipe: str, stage: StageRow) -> None:
    """A run whose training was cut after some steps on 16 H100."""
    with Workspace.open(root=folder / ".illume", tracking_url="none") as workspace:
        store = workspace.runs
        store.create_run("r1", recipe_name=recipe, plan_digest="d", stages=[stage])
        lease = Leases(workspace.database).acquire("run:r1")
        assert lease is not None
        epoch = store.begin_epoch("r1", lease)
        attempt = AttemptId(run_id="r1", stage_id=stage.stage_id, epoch=epoch, name="a1")
        key = ArtifactKey(stage.stage_kind, Fingerprint(stage.fingerprint))
        store.start_attempt(AttemptIntent(attempt=attempt, key=key, stage_version=1, config={}))
        tracker = store.telemetry.tracker(attempt)
        layout: dict[str, JSON] = {"workers": 16, "strategy": "ddp", "device": "NVIDIA H100 80GB HBM3"}
        tracker.log_event("training_layout", {**layout, "peak_tflops": 989.4})
        for step, share in enumerate((0.1, 0.42, 0.42), start=1):
            tracker.log_metrics({"mfu": share, "checkpoint_stall_s": 1.5}, step=step)
        store.transition_attempt("a1", AttemptState.INTENT, AttemptState.FAILED, epoch=epoch)


def test_what_real_runs_measured_replaces_assumptions_and_is_said(illume: Illume, tmp_path: Path) -> None:
    asked = ("estimate", "illume_plus_3b", "--gpus", "64xH100", "--gpus", "64xH200")
    before = {stage["stage"]: stage for stage in illume(*asked, "--json").data["stages"]}
    stage = StageRow(stage_id="stage_1", stage_kind=before["stage_1"]["kind"], fingerprint="1" * 64, action="run")
    trained_once(tmp_path, "illume_plus_3b", stage)
    after = {stage["stage"]: stage for stage in illume(*asked, "--json").data["stages"]}
    assert after["stage_1"]["measured"] == {
        "device": "H100-SXM",
        "strategy": "ddp",
        "workers": 16,
        "run": "r1",
        "attempts": 1,
        "flops_per_s": dict.fromkeys(("low", "expected", "high"), pytest.approx(0.42 * 989.4e12)),
        "checkpoint_stall_s": 1.5,
    }
    h100, h200 = after["stage_1"]["machines"]
    assert (h100["is_measured"], h200["is_measured"]) == (True, False)
    training = after["stage_1"]["training"]
    items = -(-training["items_per_step"] // 64 // h100["layout"]["micro_items"]) * h100["layout"]["micro_items"]
    assert h100["step_s"]["total"] == pytest.approx(training["training_flops_per_item"] * items / 0.42 / 989.4e12)
    assert h200["step_s"] == before["stage_1"]["machines"][1]["step_s"]
    assert h100["checkpoint"]["write_s"] == h200["checkpoint"]["write_s"] == 1.5
    assert {name: stage for name, stage in after.items() if name != "stage_1"} == {
        name: stage for name, stage in before.items() if name != "stage_1"
    }
    text = " ".join(illume(*asked).out.split())
    assert (
        "stage_1: measured with ddp: 416 TFLOP/s of the model on each of 16 H100-SXM, 1.5 s lost to each checkpoint "
        "(1 attempt, the newest in run r1); used for 64xH100" in text
    )


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
