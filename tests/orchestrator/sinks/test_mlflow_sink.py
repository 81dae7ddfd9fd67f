"""The MLflow sink against a real MLflow: a SQLite file, and its server application over HTTP."""

import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.history.database.database import Database
from orchestrator.history.events import Event, EventKind
from orchestrator.history.run_store import RunStore
from orchestrator.sinks.mlflow_sink import MlflowSink, _key
from orchestrator.sinks.outbox import Outbox, SinkRejectedError

TellStory = Callable[[Database, str], Any]


@pytest.fixture(scope="module")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SQLite file with MLflow's tables; making them takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Database]:
    database = Database(str(tmp_path / "index.db"))
    yield database
    database.close()


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs_of(client: Any, run_id: str) -> dict[str, Any]:
    """MLflow runs of one of ours by their name."""
    experiment = client.get_experiment_by_name("tiny")
    found = client.search_runs([experiment.experiment_id], f"tags.`illume.run` = '{run_id}'")
    return {run.info.run_name: run for run in found}


def test_no_folder_is_left_beside_a_database_whose_address_is_quoted(
    index: Database, tell_story: TellStory, tmp_path: Path
) -> None:
    """Only the folders matter, so MLflow finds something there that is no database."""
    own, written = tmp_path / "my%20data", tmp_path / "my%2520data"
    own.mkdir()
    (own / "mlflow.db").write_bytes(b"no database")
    sink = MlflowSink(f"sqlite:///{written}/mlflow.db")
    with pytest.raises(Exception, match="file is not a database"):
        sink.deliver(tell_story(index, "tree").run_store.events("tree"))
    assert not written.exists()


def test_a_run_becomes_a_parent_with_one_nested_run_for_each_attempt(
    mlflow_uri: str, index: Database, tell_story: TellStory
) -> None:
    story = tell_story(index, "tree")
    events = story.run_store.events("tree")
    MlflowSink(mlflow_uri, store_url="s3://bucket/store").deliver(events)
    client = client_of(mlflow_uri)
    runs = runs_of(client, "tree")
    assert set(runs) == {"tree", "clean 1", "clean 2"}
    parent, failed, made = runs["tree"], runs["clean 1"], runs["clean 2"]
    assert [run.info.status for run in (parent, failed, made)] == ["FINISHED", "FAILED", "FINISHED"]
    assert parent.data.tags["illume.plan"] == "d" * 64
    assert (parent.data.tags["illume.epoch"], parent.data.tags["illume.state"]) == ("2", "SUCCEEDED")
    assert failed.data.tags["illume.failure_class"] == "infra_transient"
    assert made.data.tags["mlflow.parentRunId"] == failed.data.tags["mlflow.parentRunId"] == parent.info.run_id
    tags = {name: made.data.tags[f"illume.{name}"] for name in ("stage", "attempt", "number", "epoch", "fingerprint")}
    assert tags == {
        "stage": "clean",
        "attempt": "tree-a2",
        "number": "2",
        "epoch": "1",
        "fingerprint": story.artifact.fingerprint,
    }
    assert made.data.params["min_side"] == "256"
    assert made.data.params["sizes.1"] == "[3, 4]"
    assert made.data.params["deep.name"] == "x" * 6000
    history = [(metric.step, metric.value) for metric in client.get_metric_history(made.info.run_id, "loss")]
    assert sorted(history) == [(step, pytest.approx(1 / step)) for step in range(1, 6)]
    assert made.data.metrics["result/kept"] == 38.0
    assert math.isnan(made.data.metrics["result/share"])
    (used,) = made.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest, used.tags[0].value) == ("ingest", "e" * 36, "raw")
    assert '"store": "s3://bucket/store"' in used.dataset.source
    times = [event.time for event in events if event.attempt_id == "tree-a2" and "to" in event.fields]
    assert (made.info.start_time, made.info.end_time) == (int(times[0] * 1000), int(times[-1] * 1000))


def shown(client: Any, run_id: str) -> dict[str, str]:
    """As text, in which even a statistic that is no number equals itself."""
    return {name: str(run.to_dictionary()) for name, run in runs_of(client, run_id).items()}


def test_events_delivered_again_from_any_process_change_nothing(
    mlflow_uri: str, index: Database, tell_story: TellStory
) -> None:
    events = tell_story(index, "twice").run_store.events("twice")
    MlflowSink(mlflow_uri).deliver(events[:9])
    MlflowSink(mlflow_uri).deliver(events)
    client = client_of(mlflow_uri)
    before = shown(client, "twice")
    sink = MlflowSink(mlflow_uri)
    sink.deliver(events)
    sink.deliver(events)
    assert shown(client, "twice") == before
    assert len(before) == 3
    made = runs_of(client, "twice")["clean 2"]
    assert len(client.get_metric_history(made.info.run_id, "loss")) == 5
    versions = client.search_model_versions("name = 'cleaner'")
    assert len([version for version in versions if version.tags["illume.run"] == "twice"]) == 1


def test_a_folder_becomes_a_model_version_with_an_alias(mlflow_uri: str, index: Database, tmp_path: Path) -> None:
    model = tmp_path / "my model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    fields: dict[str, Any] = {"name": "drawer", "uri": str(model), "alias": "newest"}
    created = {"recipe": "models", "plan_digest": "p", "stages": []}
    sink = MlflowSink(mlflow_uri)
    sink.deliver(
        [
            Event(run_id="m1", sequence=1, time=1000.0, epoch=0, kind=EventKind.RUN_CREATED, fields=dict(created)),
            Event(run_id="m1", sequence=2, time=1001.0, epoch=1, kind=EventKind.MODEL_VERSION, fields=fields),
            Event(run_id="m1", sequence=3, time=1002.0, epoch=1, kind=EventKind.MODEL_VERSION, fields=fields),
        ]
    )
    client = client_of(mlflow_uri)
    newest = client.get_model_version_by_alias("drawer", "newest")
    assert (int(newest.version), newest.source) == (2, model.as_uri())
    gone = {**fields, "uri": str(tmp_path / "gone")}
    event = Event(run_id="m1", sequence=4, time=1003.0, epoch=1, kind=EventKind.MODEL_VERSION, fields=gone)
    with pytest.raises(SinkRejectedError, match="gone"):
        sink.deliver([event])


def test_artifacts_of_a_database_file_are_next_to_it_and_not_in_the_current_folder(
    mlflow_uri: str, index: Database, tell_story: TellStory
) -> None:
    MlflowSink(mlflow_uri).deliver(tell_story(index, "where").run_store.events("where"))
    experiment = client_of(mlflow_uri).get_experiment_by_name("tiny")
    beside = Path(mlflow_uri.removeprefix("sqlite:///")).with_suffix(".artifacts")
    assert experiment.artifact_location == beside.as_uri()


SERVE = """
import sys
from werkzeug.serving import make_server
from mlflow.server import app
make_server("127.0.0.1", int(sys.argv[1]), app, threaded=True).serve_forever()
"""


def test_a_server_that_was_unreachable_gets_everything_once_and_in_order(
    mlflow_uri: str, index: Database, tell_story: TellStory, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    story = tell_story(index, "away")
    num_events = len(story.run_store.events("away"))
    with Outbox(index, [MlflowSink(f"http://127.0.0.1:{port}")]) as outbox:
        outbox.follow("away")
        assert outbox.drain(20.0) == {f"mlflow http://127.0.0.1:{port}": num_events}
    environment = {
        **os.environ,
        "_MLFLOW_SERVER_FILE_STORE": mlflow_uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": str(tmp_path / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "false",
    }
    server = subprocess.Popen([sys.executable, "-c", SERVE, str(port)], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        with Outbox(index, [MlflowSink(f"http://127.0.0.1:{port}")]) as outbox:  # the next `illume run`
            assert outbox.drain(60.0) == {}
    finally:
        server.kill()
        server.wait()
    client = client_of(mlflow_uri)
    runs = runs_of(client, "away")
    assert {name: run.info.status for name, run in runs.items()} == {
        "away": "FINISHED",
        "clean 1": "FAILED",
        "clean 2": "FINISHED",
    }
    history = client.get_metric_history(runs["clean 2"].info.run_id, "loss")
    assert sorted(metric.step for metric in history) == [1, 2, 3, 4, 5]


def wait_for_port(port: int) -> None:
    deadline_s = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline_s, "the MLflow server did not start"
        time.sleep(0.1)


def test_a_run_deleted_in_mlflow_is_reported_and_created_again_by_its_next_state(
    mlflow_uri: str, index: Database, tell_story: TellStory
) -> None:
    story = tell_story(index, "gone")
    events = story.run_store.events("gone")
    MlflowSink(mlflow_uri).deliver(events[:-1])
    client = client_of(mlflow_uri)
    for run in runs_of(client, "gone").values():
        client.delete_run(run.info.run_id)
    metrics = next(event for event in events if event.kind == EventKind.METRICS)
    with pytest.raises(SinkRejectedError, match="run gone was deleted in MLflow"):
        MlflowSink(mlflow_uri).deliver([metrics])
    MlflowSink(mlflow_uri).deliver(events[-1:])
    assert runs_of(client, "gone")["gone"].info.status == "FINISHED"


def test_importing_the_sink_does_not_import_mlflow() -> None:
    code = "import sys, orchestrator.sinks.mlflow_sink; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_name_of_the_sink_has_no_password(index: Database) -> None:
    assert MlflowSink("https://me:hunter2@mlflow.local").name == "mlflow https://me:***@mlflow.local"
    assert RunStore(index).events("nothing") == []


def test_a_model_whose_store_has_moved_is_where_the_store_is_now(tmp_path: Path) -> None:
    inside = Path("artifacts", "train", "ab", "ab" * 32, "attempts", "one", "data")
    sink = MlflowSink("sqlite:///m.db", store_url=str(tmp_path / "new place"))
    gone = (tmp_path / "old" / inside).as_uri()
    assert sink._present_address(gone) == (tmp_path / "new place" / inside).as_uri()
    (tmp_path / "old" / inside).mkdir(parents=True)
    assert sink._present_address(gone) == gone
    remote = MlflowSink("http://m:5000", store_url="s3://bucket/team?endpoint=http://h")
    assert remote._present_address("file:///gone/" + inside.as_posix()) == f"s3://bucket/team/{inside.as_posix()}"
    assert remote._present_address("hf://other/model") == "hf://other/model"


@pytest.mark.parametrize(
    "name", ["", " ", "/abs", "../up", "a//b", "a/", ".", "a/./b", "ü:[0]", "😀", "x" * 400, "d/" * 300]
)
def test_every_name_becomes_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    _validate_metric_name(_key(name))
    _validate_param_name(_key(name))
    assert len(_key(name)) <= 250


def test_long_names_with_one_beginning_stay_apart_and_plain_ones_as_they_are() -> None:
    assert _key("a" * 300 + "1") != _key("a" * 300 + "2")
    assert _key("train/loss.pixels") == "train/loss.pixels"
