"""The charts of a training."""

from starlette.testclient import TestClient

from orchestrator.attempt_id import AttemptId
from orchestrator.history.telemetry import Telemetry
from orchestrator.web.curves import Samples
from orchestrator.web.views.training import charts_of
from tests.orchestrator.web.conftest import MadeUp

ONE = Samples(steps=(1,), means=(1.0,), lows=(1.0,), highs=(1.0,), last=1.0)
METRICS = (
    "language/loss",
    "language/text_loss",
    "language/loss/source/pictures",
    "language/loss_of/0 understanding",
    "system/cpu_utilization_percentage",
    "system/network_receive_megabytes",
    "validation/language/loss",
    "language/lr",
    "language/grad_norm",
    "weight_per_s",
    "mfu",
    "padding_share",
    "workers/own_step_s_median",
    "workers/own_step_s_slowest",
    "workers/slowest",
    "data_steps_skipped",
    "generator/psnr_db",
)


def test_each_metric_is_in_one_chart_of_what_it_tells() -> None:
    charts = {chart.title: [curve.metric for curve in chart.curves] for chart in charts_of(dict.fromkeys(METRICS, ONE))}
    assert charts["Loss"] == ["language/loss", "language/loss/source/pictures", "language/text_loss"]
    assert charts["Loss by source"] == ["language/loss_of/0 understanding"]
    assert charts["Machine"] == ["system/cpu_utilization_percentage"]
    assert charts["Validation"] == ["validation/language/loss"]
    assert charts["Own time of a step"] == ["workers/own_step_s_median", "workers/own_step_s_slowest"]
    assert charts["Other metrics"] == ["generator/psnr_db"]
    shown = [name for names in charts.values() for name in names]
    assert sorted(shown) == sorted(set(METRICS) - {"workers/slowest", "data_steps_skipped"})


def test_the_page_shows_curves_moments_and_what_is_not_reported(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.attempt("r1", "model")
    telemetry = Telemetry(made_up.workspace.database)
    tracker = telemetry.tracker(AttemptId.of("r1", "model", epoch=made_up.leases["r1"].epoch, number=1))
    for step in range(5):
        tracker.log_metrics({"language/loss": 5.0 - step, "checkpoint_stall_s": 0.25}, step=step)
    telemetry.close()
    page = client.get("/runs/r1/stages/model/training").text
    assert "Loss: steps 0 to 4, lowest 1, highest 5" in page
    assert "took 0.25 s of training" in page
    assert "does not report: model flops utilization, padding" in page
    found = client.get("/api/v1/runs/r1/stages/model/training").json()
    assert found["charts"][0]["curves"][0]["samples"]["means"] == [5.0, 4.0, 3.0, 2.0, 1.0]
    assert found["is_complete"] is True


def test_a_stage_without_steps_and_one_that_does_not_exist_are_pages_too(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    assert "No step yet" in client.get("/runs/r1/stages/model/training").text
    answer = client.get("/runs/r1/stages/nothing/training")
    assert answer.status_code == 404
    assert "it has raw, curated" in answer.text
