"""A stand-in for a Kubernetes API server: RayJobs are stored, and checked as strictly as the real CRD is.

Create (with dry run and field validation), get, list by label, patch, delete; Workloads of Kueue are listed by the UID
of their RayJob and go with it. Pods and their output are given by the test, which plays the operator and Kueue by
writing `status`, `suspend` and the conditions of Workloads.
"""

import copy
import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import yaml
from jsonschema import Draft202012Validator

_PATH = re.compile(
    r"/apis/(?P<group>ray\.io/v1|kueue\.x-k8s\.io/v1beta[12])/namespaces/(?P<ns>[^/]+)/(?P<plural>\w+)(?:/(?P<name>[^/]+))?"
)
_PODS = re.compile(r"/api/v1/namespaces/(?P<ns>[^/]+)/pods(?:/(?P<name>[^/]+)/log)?")


@dataclass(kw_only=True)
class ApiServer:
    """What the server holds; tests read and change it."""

    validator: Draft202012Validator | None  # of RayJob; None: nothing is checked
    address: str = ""
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)  # RayJobs by name
    workloads: dict[str, dict[str, Any]] = field(default_factory=dict)  # of Kueue, by the UID of their RayJob
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)  # pods of heads, by the name of their RayCluster
    kueue: str = "v1beta2"  # the version of Kueue's API that is served
    forbidden: set[str] = field(default_factory=set)  # plurals that nobody may read
    queues: set[str] = field(default_factory=set)
    outputs: dict[str, str] = field(default_factory=dict)  # of pods, by the name of their RayJob
    requests: list[str] = field(default_factory=list)
    refusal: tuple[int, str] | None = None  # answered to everything
    page: str = ""  # what a proxy answers to everything, with 200
    cut: str = ""  # requests of this method are carried out, and their answers are cut
    unserved: bool = False  # by name no object is found, as while the server starts

    def only(self) -> dict[str, Any]:
        (found,) = self.objects.values()
        return found

    def problems(self, manifest: dict[str, Any]) -> list[str]:
        if self.validator is None:
            return []
        errors = sorted(self.validator.iter_errors(manifest), key=lambda error: list(error.absolute_path))
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in errors]


@contextmanager
def api_server(crd: Path | None = None) -> Iterator[ApiServer]:
    found = ApiServer(validator=Draft202012Validator(strict_schema(crd)) if crd else None)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.state = found
    found.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


def strict_schema(crd: Path) -> dict[str, Any]:
    """The schema of version v1 as the server reads it with strict field validation: unknown fields are errors."""
    definition = yaml.safe_load(crd.read_text())
    (version,) = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    schema: dict[str, Any] = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = _METADATA
    return schema


_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
_METADATA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "namespace"],
    "properties": {
        "name": {"type": "string", "maxLength": 47, "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"},
        "namespace": {"type": "string"},
        "labels": {
            "type": "object",
            "additionalProperties": {
                "type": "string",
                "maxLength": 63,
                "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
            },
        },
        "annotations": _STRINGS,
    },
}


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": schema.get("pattern", "")}]}
    kept = {name: value for name, value in schema.items() if not name.startswith("x-") and name != "description"}
    for name in ("properties", "additionalProperties", "items", "anyOf", "allOf", "oneOf"):
        if name in kept and name == "properties":
            kept[name] = {key: _strict(value) for key, value in kept[name].items()}
        elif name in kept:
            kept[name] = _strict(kept[name])
    is_open = "additionalProperties" in kept or schema.get("x-kubernetes-preserve-unknown-fields")
    if kept.get("type") == "object" and "properties" in kept and not is_open:
        kept["additionalProperties"] = False
    if kept.get("type") == "object" and "properties" not in kept and not is_open and "anyOf" not in kept:
        kept.setdefault("additionalProperties", True)
    return kept


class _Server(ThreadingHTTPServer):
    state: ApiServer


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_arguments: object) -> None:
        """Nothing on the terminal."""

    def answer(self, code: int, body: dict[str, Any] | str) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        if self.server.state.cut == self.command:
            return
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, code: int, message: str) -> None:
        self.answer(code, {"kind": "Status", "status": "Failure", "message": message, "code": code})

    def absent(self, plural: str, name: str) -> None:
        message = f'{plural} "{name}" not found'
        details = {"name": name, "kind": plural.partition(".")[0]}
        self.answer(404, {"kind": "Status", "status": "Failure", "message": message, "details": details, "code": 404})

    def handle_one(self) -> None:
        url = urlparse(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        self.server.state.requests.append(f"{self.command} {url.path}{' (dry run)' if query.get('dryRun') else ''}")
        if self.server.state.refusal is not None:
            return self.refuse(*self.server.state.refusal)
        if self.server.state.page:
            return self.answer(200, self.server.state.page)
        if pods := _PODS.fullmatch(url.path):
            return self.pods(pods["name"], query)
        found = _PATH.fullmatch(url.path)
        if found is None:
            return self.refuse(404, f"the server could not find {url.path}")
        if found["plural"] in self.server.state.forbidden:
            return self.refuse(403, f"{found['plural']} is forbidden")
        if found["group"].startswith("kueue") and not found["group"].endswith(self.server.state.kueue):
            return self.answer(404, "404 page not found\n")
        if found["plural"] == "workloads":
            uid = query["labelSelector"].removeprefix("kueue.x-k8s.io/job-uid=")
            items = [self.server.state.workloads[uid]] if uid in self.server.state.workloads else []
            return self.answer(200, {"kind": "WorkloadList", "items": items})
        if found["plural"] == "localqueues":
            known = found["name"] in self.server.state.queues
            return self.answer(200, {}) if known else self.absent("localqueues.kueue.x-k8s.io", str(found["name"]))
        return self.ray_jobs(found["name"], query, body)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_one

    def pods(self, name: str | None, query: dict[str, str]) -> None:
        if name is not None:
            return self.answer(200, self.server.state.outputs[name.removesuffix("-pod")])
        if cluster := re.fullmatch(r"ray\.io/cluster=(.*),ray\.io/node-type=head", query["labelSelector"]):
            heads = [self.server.state.heads[cluster[1]]] if cluster[1] in self.server.state.heads else []
            return self.answer(200, {"kind": "PodList", "apiVersion": "v1", "items": heads})
        wanted = query["labelSelector"].removeprefix("job-name=")
        items = [{"metadata": {"name": f"{wanted}-pod"}}] if wanted in self.server.state.outputs else []
        return self.answer(200, {"kind": "PodList", "apiVersion": "v1", "items": items})

    def ray_jobs(self, name: str | None, query: dict[str, str], body: dict[str, Any]) -> None:
        if self.command == "POST":
            problems = self.server.state.problems(body) if query.get("fieldValidation") == "Strict" else ["not strict"]
            if problems:
                return self.refuse(422, "; ".join(problems))
            if body["metadata"]["name"] in self.server.state.objects:
                return self.refuse(409, "already exists")
            if not query.get("dryRun"):
                body["metadata"]["uid"] = str(uuid.uuid4())
                self.server.state.objects[body["metadata"]["name"]] = copy.deepcopy(body)
            return self.answer(201, body)
        if name is None:
            label = query.get("labelSelector", "")
            wanted = dict([label.split("=", 1)]) if label else {}
            every = self.server.state.objects.values()
            items = [found for found in every if wanted.items() <= found["metadata"]["labels"].items()]
            return self.answer(200, {"kind": "RayJobList", "items": items})
        if name not in self.server.state.objects or self.server.state.unserved:
            return self.absent("rayjobs.ray.io", name)
        if self.command == "DELETE":
            deleted = self.server.state.objects.pop(name)
            self.server.state.workloads.pop(deleted["metadata"]["uid"], None)
            return self.answer(200, {"kind": "Status", "status": "Success"})
        if self.command == "PATCH":
            self.server.state.objects[name]["metadata"]["annotations"] |= body["metadata"]["annotations"]
        return self.answer(200, self.server.state.objects[name])
