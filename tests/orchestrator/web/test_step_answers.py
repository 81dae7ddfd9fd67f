"""Answers about steps: computed once, beside the pages."""

import json
import threading
from collections.abc import Sequence

from click.testing import CliRunner
from starlette.testclient import TestClient

from orchestrator.web.step_answers import Answer, StepAnswers, compute
from orchestrator.web.step_process import main
from tests.orchestrator.web.conftest import MadeUp

SAMPLE = {
    "sample_id": "a" * 64, "task": "generation", "source": "web", "turns": [["human", "<b>draw</b>"]],
    "images": [[640, 480]], "dataset": "f" * 64, "shard": "s0", "offset": 512, "span": 2048,
}  # fmt: skip


def test_the_page_says_that_it_is_computed_and_then_shows_the_samples(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    go, asked = threading.Event(), []

    def slow(arguments: Sequence[str]) -> Answer:
        asked.append(list(arguments))
        go.wait(30)
        return {"samples": [SAMPLE], "problem": ""}

    client.app.state.service.steps.compute = slow  # type: ignore[attr-defined]
    address = "/runs/r1/stages/model/steps/7"
    assert "Computing what this step learned from" in client.get(address).text
    assert client.get(f"/api/v1{address}").json()["is_ready"] is False
    go.set()
    while not client.get(f"/api/v1{address}").json()["is_ready"]:
        pass
    page = client.get(address).text
    assert "&lt;b&gt;draw&lt;/b&gt;" in page
    assert f"/datasets/{'f' * 64}/pictures?slot=0&amp;shard=s0&amp;offset=512&amp;span=2048" in page
    assert asked == [["--", "r1", "model", "7"]]


def test_what_failed_is_told_once_and_asked_again() -> None:
    answers = StepAnswers(compute=lambda _arguments: {"samples": [], "problem": "the dataset is gone"})
    while (found := answers.ask("r1")) is None:
        pass
    assert found["problem"] == "the dataset is gone"
    assert answers.ask("r1") is None


def test_a_process_that_cannot_answer_says_why() -> None:
    assert "No such option" in compute(["--no-such-option"])["problem"]


def test_the_process_answers_in_json_also_when_it_cannot(made_up: MadeUp) -> None:
    made_up.start("r1")
    environment = {"ILLUME_HOME": str(made_up.workspace.root)}
    done = CliRunner().invoke(main, ["--", "r9", "model", "1"], env=environment)
    assert "r9" in json.loads(done.stdout)["problem"]


def test_images_are_asked_for_by_numbers_within_a_dataset_that_exists(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.commit("r1", "raw")
    at = f"/datasets/{'0' * 64}/pictures"
    assert client.get(f"{at}?shard=s&offset=0&span=9&slot=0").status_code == 404
    assert client.get(f"{at}?shard=../../etc&offset=0&span=9&slot=0").status_code == 404
    assert client.get(f"{at}?shard=s&offset=-1&span=9&slot=0").status_code == 400
