"""The page of a step: asked once, answered by a process of its own, its texts read where they lie."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from data_pipelines.datasets.reader import CuratedDataset
from orchestrator.web.page import NotFoundError
from orchestrator.web.questions import asking
from orchestrator.web.questions.asking import FOLDER
from orchestrator.web.questions.records import LOCK, OUT, PROGRESS, SAMPLES, Question, put_end, put_question
from orchestrator.web.views import step as view
from tests.data_pipelines.conftest import Wanted, write_dataset
from tests.orchestrator.web.conftest import MadeUp

ADDRESS = "/runs/r1/stages/model/steps/7"
ARGUMENTS = ("samples", "r1:model", "7", "--json")


@pytest.fixture
def asked(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked; no process is started."""
    made_up.start("r1")
    found: list[str] = []

    def ask(_folder: Path, _kind: str, arguments: list[str], _where: object, *, asked_by: str) -> None:
        found.append(" ".join(arguments))

    monkeypatch.setattr(view, "ask", ask)
    return found


def put_answer(made_up: MadeUp, text: str, code: int, *, progress: str = "") -> None:
    """The answer of the process, as it leaves it."""
    question = Question(
        id="20260504-101500-abcd",
        kind=SAMPLES,
        title="a step",
        arguments=ARGUMENTS,
        where=(),
        asked_by="",
        asked_at=1.0,
    )
    place = put_question(made_up.workspace.root / "web" / FOLDER, question)
    (place / OUT).write_text(text)
    (place / PROGRESS).write_text(progress)
    (place / LOCK).touch()
    put_end(place, code)


def test_a_step_is_asked_and_its_samples_are_shown_as_text(
    client: TestClient, made_up: MadeUp, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Computing what this step learned from" in client.get(ADDRESS).text
    assert asked == ["samples r1:model 7 --json"]
    write_dataset(
        tmp_path / "d", [Wanted(task="generation", turns=("<b>draw</b>", "<image>"), anchors=((32, 32),))], name="d"
    )
    (row,) = pq.read_table(tmp_path / "d" / "ledger" / "d-00000.parquet").to_pylist()
    where = {"dataset": "f" * 64, "shard": "d-00000", "offset": row["offset"], "span_bytes": row["span_bytes"]}
    sample = {"sample_id": row["sample_id"], "task": "generation", "source": "web", "images": [[64, 48]], **where}
    put_answer(made_up, json.dumps({"format": 1, "samples": [sample]}), 0)
    monkeypatch.setattr(view, "open_dataset", lambda _service, _name: CuratedDataset(tmp_path / "d"))
    page = client.get(ADDRESS).text
    assert "&lt;b&gt;draw&lt;/b&gt;" in page
    assert f"/datasets/{'f' * 64}/pictures?slot=0&amp;shard=d-00000&amp;offset={row['offset']}" in page
    assert f'href="{ADDRESS}"' in client.get("/questions").text
    monkeypatch.setattr(view, "open_dataset", no_dataset)
    assert "b&gt;draw" not in client.get(ADDRESS).text, "a copy of the text stayed"
    assert "not in the store any more" in client.get(ADDRESS).text
    assert len(asked) == 1


def no_dataset(_service: object, _name: str) -> CuratedDataset:
    raise NotFoundError("it was taken down")


def test_what_failed_says_why_and_is_asked_again_later(
    client: TestClient, made_up: MadeUp, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_answer(made_up, "", 2, progress="INFO opening\nError: the dataset is gone\n")
    assert client.get(f"/api/v1{ADDRESS}").json()["problem"] == "the dataset is gone"
    assert asked == []
    monkeypatch.setattr(view, "RETRY_S", -1.0)
    assert client.get(f"/api/v1{ADDRESS}").json()["is_ready"] is False
    assert len(asked) == 1


def test_steps_that_there_are_not(client: TestClient, asked: list[str]) -> None:
    assert client.get("/runs/r1/stages/model/steps/-3").status_code == 404
    assert client.get("/runs/r9/stages/model/steps/3").status_code == 404
    assert asked == []


def test_too_many_questions_at_once_are_refused(
    client: TestClient, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up.start("r1")
    monkeypatch.setattr(asking, "MAX_RUNNING", 0)
    answer = client.get(ADDRESS)
    assert answer.status_code == 429
    assert "ask again when some of them are" in answer.text


def test_images_are_asked_for_by_numbers_within_a_dataset_that_exists(client: TestClient, made_up: MadeUp) -> None:
    made_up.start("r1")
    made_up.commit("r1", "raw")
    at = f"/datasets/{'0' * 64}/pictures"
    assert client.get(f"{at}?shard=s&offset=0&span=9&slot=0").status_code == 404
    assert client.get(f"{at}?shard=../../etc&offset=0&span=9&slot=0").status_code == 404
    assert client.get(f"{at}?shard=s&offset=-1&span=9&slot=0").status_code == 400
