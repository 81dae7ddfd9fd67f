"""The MLflow sink: one parent run for each recipe run, one nested run for each attempt, models in the registry.

Rule: MLflow's ids are never stored. A run is found by its tags, so events may be delivered twice, from any process.
"""

import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from orchestrator.artifact import JSON
from orchestrator.artifacts.manifest_summary import recorded_metrics
from orchestrator.history.events import AttemptState, Event, EventKind, RunState, flatten
from orchestrator.redaction.masking import mask_text
from orchestrator.sinks.outbox import SinkRejectedError

METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100  # limits of the MLflow API
DIGEST_CHARACTERS = 8  # of a name that is too long
MAX_KEY, MAX_VALUE, MAX_TAG, MAX_DIGEST = 250, 6000, 5000, 36  # characters; limits of the MLflow API
TAG = "illume."
_NOT_IN_KEYS = re.compile(r"[^\w\-. /:]")
_STATUS: Mapping[str, str] = {  # of MLflow, for the end states of runs and attempts
    RunState.SUCCEEDED: "FINISHED",
    RunState.FAILED: "FAILED",  # equal to AttemptState.FAILED, as are the two CANCELLED
    RunState.CANCELLED: "KILLED",
    RunState.INTERRUPTED: "KILLED",
    AttemptState.COMMITTED: "FINISHED",
    AttemptState.LOST: "KILLED",
}
# The outbox's back-off replaces MLflow's, which would block a delivery for minutes; telemetry is off.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


SQLITE = "sqlite:///"
_IN_STORE = re.compile(r"artifacts/[^/]+/[0-9a-f]{2}/[0-9a-f]{64}/attempts/.+")  # see `store/layout.py`


class MlflowSink:
    """Writes events as MLflow runs, in the experiment named after the recipe. Connects at the first delivery."""

    linger_s = 5.0  # metrics are sent in batches: a call takes 3 to 100 ms, independent of its size

    def __init__(self, uri: str, *, store_url: str = "") -> None:
        """`uri`: `sqlite:///path`, `http://host:5000`; `store_url` is shown as the location of the artifacts."""
        self.name = f"mlflow {mask_text(uri)}"
        self._uri = uri
        self._store_url = mask_text(store_url)
        self._client: Any = None
        self._experiments: dict[str, str] = {}  # run id -> experiment id
        self._strays = _stray_folders(uri)
        self._runs: dict[str, str] = {}  # our run or attempt id -> MLflow run id; a cache, may be cleared

    def deliver(self, events: Sequence[Event]) -> None:
        """Raises: SinkRejectedError: MLflow refuses a value as invalid. MlflowException: it cannot be reached."""
        try:
            self._deliver(self._connected(), events)
        finally:
            for folder in self._strays:
                with suppress(OSError):  # it is not there, or holds something
                    folder.rmdir()

    def _deliver(self, client: Any, events: Sequence[Event]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            for (kind, _attempt), group in groupby(events, key=lambda event: (event.kind, event.attempt_id)):
                handler = self._handlers.get(kind)
                if handler is not None:
                    handler(self, client, list(group))
        except MlflowException as error:
            self._runs.clear()
            self._experiments.clear()
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise SinkRejectedError(f"MLflow: {error.message}") from error
            raise

    def _connected(self) -> Any:
        if self._client is None:
            for name, value in _ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            logging.getLogger("alembic").setLevel(logging.WARNING)  # it logs each step of creating the tables
            warnings.filterwarnings("ignore", module="mlflow")  # its own use of SQLAlchemy
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self._uri)
        return self._client

    def _run_created(self, client: Any, events: list[Event]) -> None:
        for event in events:
            self._parent(client, event)

    def _run_state(self, client: Any, events: list[Event]) -> None:
        for event in events:
            run = self._parent(client, event)
            self._show_state(client, run, event, {"epoch": event.epoch, "message": event.fields.get("message", "")})

    def _attempt_state(self, client: Any, events: list[Event]) -> None:
        for event in events:
            run = self._nested(client, event)
            if event.fields["to"] == AttemptState.INTENT:
                self._log_intent(client, run, event)
            artifact = event.fields.get("artifact")
            tags = {name: event.fields.get(name) for name in ("failure_class", "message")}
            if isinstance(artifact, dict):
                self._log_result(client, run, event, artifact)
                tags |= {f"artifact.{name}": artifact[name] for name in ("kind", "manifest_sha256", "files", "bytes")}
            self._show_state(client, run, event, tags)

    def _show_state(self, client: Any, run: str, event: Event, tags: Mapping[str, JSON]) -> None:
        state = str(event.fields["to"])
        self._tag(client, run, {**tags, "state": state})
        if state in _STATUS:
            client.set_terminated(run, status=_STATUS[state], end_time=_ms(event.time))
        elif state == RunState.RUNNING:
            client.update_run(run, status="RUNNING")

    def _metrics(self, client: Any, events: list[Event]) -> None:
        from mlflow.entities import Metric

        run = self._nested(client, events[0])
        points: list[Any] = [point for event in events for point in _points(event)]
        metrics = [Metric(_key(name), float(value), _ms(at), int(step)) for name, value, step, at in points]
        for start in range(0, len(metrics), METRICS_PER_CALL):
            client.log_batch(run, metrics=metrics[start : start + METRICS_PER_CALL])

    def _model_version(self, client: Any, events: list[Event]) -> None:
        for event in events:
            run = self._nested(client, event) if event.attempt_id else self._parent(client, event)
            name, uri = str(event.fields["name"]), self._present_address(str(event.fields["uri"]))
            version = self._registered(client, name, event.id)
            if version is None:
                source = self._model_source(client, run, uri)
                tags = {f"{TAG}event": event.id, f"{TAG}run": event.run_id}
                version = client.create_model_version(name, source=source, run_id=run, tags=tags).version
            alias = event.fields.get("alias")
            if alias:
                client.set_registered_model_alias(name, str(alias), version)

    def _model_tainted(self, client: Any, events: list[Event]) -> None:
        """Tag the run that made the model, and the model versions registered from it."""
        for event in events:
            run, takedown = self._nested(client, event), str(event.fields["takedown"])
            self._tag(client, run, {"tainted_by": takedown})
            for version in client.search_model_versions(f"run_id = '{run}'"):
                client.set_model_version_tag(version.name, version.version, f"{TAG}tainted_by", takedown)

    def _registered(self, client: Any, name: str, event_id: str) -> str | None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.search_model_versions(f"name = '{name}'")
        return next((version.version for version in found if version.tags.get(f"{TAG}event") == event_id), None)

    def _present_address(self, uri: str) -> str:
        """The address of a model; if its folder is gone and was in the store, where the store is now."""
        inside = _IN_STORE.search(uri)
        if inside is None or not self._store_url or Path(unquote(urlsplit(uri).path)).is_dir():
            return uri
        if "://" in self._store_url:
            return f"{self._store_url.partition('?')[0].rstrip('/')}/{inside.group()}"
        return Path(self._store_url).joinpath(inside.group()).as_uri()

    def _model_source(self, client: Any, run: str, uri: str) -> str:
        """A URI where MLflow can read the model; a server cannot read folders of this machine, so it gets a copy."""
        folder = Path(unquote(urlsplit(uri).path)) if uri.startswith("file:") else Path(uri)
        if "://" in uri and not uri.startswith("file:"):
            return uri
        if not folder.is_dir():
            raise SinkRejectedError(f"model folder {str(folder)!r} is gone; register it by hand if it is needed")
        if not self._uri.startswith("http"):
            return folder.absolute().as_uri()
        client.log_artifacts(run, str(folder), artifact_path="model")
        return f"runs:/{run}/model"

    def _log_intent(self, client: Any, run: str, event: Event) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        flat = dict(flatten(event.fields.get("config", {})))
        by_key = {_key(name): value[:MAX_VALUE] for name, value in sorted(flat.items())}
        params = [Param(key, value) for key, value in by_key.items()]
        for start in range(0, len(params), PARAMS_PER_CALL):
            client.log_batch(run, params=params[start : start + PARAMS_PER_CALL])
        inputs: Any = event.fields.get("inputs", [])
        datasets = []
        for item in inputs:
            source = {"store": self._store_url, "kind": item["kind"], "name": item["name"], "digest": item["digest"]}
            profile = {name: item[name] for name in ("files", "rows", "bytes") if item[name] is not None}
            dataset = Dataset(
                name=item["name"][:500],
                digest=item["digest"][:MAX_DIGEST],
                source_type="illume",
                source=json.dumps(source, sort_keys=True),
                profile=json.dumps(profile, sort_keys=True),
            )
            datasets.append(DatasetInput(dataset, tags=[InputTag("mlflow.data.context", item["slot"])]))
        if datasets:
            client.log_inputs(run, datasets=datasets)

    def _log_result(self, client: Any, run: str, event: Event, artifact: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        results: Mapping[str, Any] = recorded_metrics(artifact)
        metrics = [Metric(_key(f"result/{name}"), float(value), _ms(event.time), 0) for name, value in results.items()]
        for start in range(0, len(metrics), METRICS_PER_CALL):
            client.log_batch(run, metrics=metrics[start : start + METRICS_PER_CALL])

    def _tag(self, client: Any, run: str, tags: Mapping[str, JSON]) -> None:
        from mlflow.entities import RunTag

        kept = [RunTag(f"{TAG}{name}", str(value)[:MAX_TAG]) for name, value in tags.items() if value is not None]
        client.log_batch(run, tags=kept)

    def _experiment(self, client: Any, recipe: str) -> str:
        """Id of the experiment named after the recipe; creates it if there is none."""
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(recipe)
        if found is not None and found.lifecycle_stage == "active":
            return str(found.experiment_id)
        if found is not None:
            raise MlflowException(f"experiment {recipe!r} was deleted; restore it (mlflow experiments restore)")
        try:
            return str(client.create_experiment(recipe, artifact_location=self._artifact_location()))
        except MlflowException as error:  # another process created it first
            found = client.get_experiment_by_name(recipe)
            if found is None:
                raise error from None
            return str(found.experiment_id)

    def _artifact_location(self) -> str | None:
        """A folder next to a database file (MLflow's default is the current folder); None: the server decides."""
        if not self._uri.startswith(SQLITE):
            return None
        return Path(unquote(self._uri.removeprefix(SQLITE))).absolute().with_suffix(".artifacts").as_uri()

    def _parent(self, client: Any, event: Event) -> str:
        tags = {"mlflow.runName": event.run_id, f"{TAG}role": "run", f"{TAG}run": event.run_id}
        if event.kind == EventKind.RUN_CREATED:
            tags |= {f"{TAG}recipe": str(event.fields["recipe"]), f"{TAG}plan": str(event.fields["plan_digest"])}
        return self._find_or_create(client, event, event.run_id, tags)

    def _nested(self, client: Any, event: Event) -> str:
        if not event.attempt_id:
            return self._parent(client, event)
        if event.attempt_id in self._runs:
            return self._runs[event.attempt_id]
        number = event.fields.get("number")
        tags = {
            "mlflow.parentRunId": self._parent(client, event),
            "mlflow.runName": f"{event.stage_id} {number}" if number else str(event.stage_id),
            f"{TAG}role": "attempt",
            f"{TAG}run": event.run_id,
            f"{TAG}stage": str(event.stage_id),
            f"{TAG}attempt": event.attempt_id,
        }
        tagged_fields = {
            "number": "number",
            "attempt_epoch": "epoch",
            "stage_kind": "stage_kind",
            "fingerprint": "fingerprint",
        }
        tags |= {f"{TAG}{tag}": str(event.fields[name]) for name, tag in tagged_fields.items() if name in event.fields}
        return self._find_or_create(client, event, event.attempt_id, tags)

    def _find_or_create(self, client: Any, event: Event, key: str, tags: Mapping[str, str]) -> str:
        if key not in self._runs:
            found = self._find(client, event, key, tags[f"{TAG}role"])
            if found is None:
                experiment = self._experiment_of(client, event)
                found = client.create_run(experiment, start_time=_ms(event.time), tags=dict(tags)).info.run_id
            self._runs[key] = found
        return self._runs[key]

    def _experiment_of(self, client: Any, event: Event) -> str:
        if event.run_id not in self._experiments:
            if "recipe" not in event.fields:
                raise SinkRejectedError(f"run {event.run_id} was deleted in MLflow")
            self._experiments[event.run_id] = self._experiment(client, str(event.fields["recipe"]))
        return self._experiments[event.run_id]

    def _find(self, client: Any, event: Event, key: str, role: str) -> str | None:
        tag = f"{TAG}run" if role == "run" else f"{TAG}attempt"
        query = f"tags.`{tag}` = '{key}' and tags.`{TAG}role` = '{role}'"
        known = self._experiments.get(event.run_id)
        experiments = [known] if known else [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments, query, max_results=1, order_by=["attributes.start_time ASC"])
        if not runs:
            return None
        self._experiments[event.run_id] = runs[0].info.experiment_id
        return str(runs[0].info.run_id)

    _handlers: Mapping[str, Callable[["MlflowSink", Any, list[Event]], None]] = {
        EventKind.RUN_CREATED: _run_created,
        EventKind.RUN_STATE: _run_state,
        EventKind.ATTEMPT_STATE: _attempt_state,
        EventKind.METRICS: _metrics,
        EventKind.MODEL_VERSION: _model_version,
        EventKind.MODEL_TAINTED: _model_tainted,
    }


def _points(event: Event) -> list[JSON]:
    points = event.fields["points"]
    assert isinstance(points, list), "a metrics event holds a list of points"
    return points


def _key(name: str) -> str:
    """The name of a metric or parameter as MLflow takes it: one that it refuses costs the whole batch. Equal for equal
    names; a long one keeps its digest, as parameters of one name must not differ."""
    parts = (part if part.strip(".") else "_" * len(part) for part in _NOT_IN_KEYS.sub("_", name).split("/"))
    key = "/".join(part for part in parts if part) or "_"
    if len(key) <= MAX_KEY:
        return key
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_CHARACTERS]
    return f"{key[: MAX_KEY - DIGEST_CHARACTERS - 1].rstrip('/')}-{digest}"


def _ms(time_s: float) -> int:
    return int(time_s * 1000)


def _stray_folders(uri: str) -> list[Path]:
    """Folders that do not exist and that MLflow makes, innermost first: it makes the folder of a database file by its
    address as it is written, with %25 for a %, while the file lies in the folder that the address means."""
    written = uri.removeprefix(SQLITE)
    if written == uri or unquote(written) == written:
        return []
    return [folder for folder in Path(written).absolute().parents if not folder.exists()]
