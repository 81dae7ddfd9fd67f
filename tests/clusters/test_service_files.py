"""The files that bring the service to a cluster: manifests as the Kubernetes API takes them, commands that exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from orchestrator.cli import LateGroup

CLUSTERS = Path(__file__).parents[2] / "clusters"
MANIFESTS = CLUSTERS / "service" / "kubernetes.yaml"
MODELS = {
    "ServiceAccount": "V1ServiceAccount",
    "Role": "V1Role",
    "RoleBinding": "V1RoleBinding",
    "Deployment": "V1Deployment",
    "Service": "V1Service",
    "NetworkPolicy": "V1NetworkPolicy",
}
SECRET = re.compile(r"(?i)(password|secret|token|key)\s*[:=]\s*[\"']?[A-Za-z0-9+/]{12,}")


def documents() -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(MANIFESTS.read_text()) if document]


def unknown_fields(value: Any, kind: str, path: str) -> Iterator[str]:
    """Fields that the API would refuse in strict mode, by the models of the official client."""
    models = pytest.importorskip("kubernetes.client.models", reason="pip install 'illume-orchestrator[kubernetes]'")
    if kind.lower().startswith("list["):
        for number, item in enumerate(value):
            yield from unknown_fields(item, kind[5:-1], f"{path}[{number}]")
    elif hasattr(models, kind):
        model = getattr(models, kind)
        types = {model.attribute_map[name]: inner for name, inner in model.openapi_types.items()}
        for name, inner in value.items():
            if name not in types:
                yield f"{path}.{name}"
            else:
                yield from unknown_fields(inner, types[name], f"{path}.{name}")


@pytest.mark.parametrize("number", range(len(documents())))
def test_the_api_knows_every_field_of_the_manifests(number: int) -> None:
    document = documents()[number]
    assert list(unknown_fields(document, MODELS[document["kind"]], document["kind"])) == []


def test_a_misspelt_field_is_found() -> None:
    document = {"kind": "Service", "spec": {"ports": [{"port": 80, "targetport": 1}]}}
    assert list(unknown_fields(document, "V1Service", "Service")) == ["Service.spec.ports[0].targetport"]


def test_the_role_is_what_the_launcher_is_documented_to_need() -> None:
    (role,) = [document for document in documents() if document["kind"] == "Role"]
    readme = " ".join((CLUSTERS / "README.md").read_text().split())
    for rule in role["rules"]:
        names = " and ".join(f"`{name}`" for name in rule["resources"])
        assert f"{names} ({', '.join(rule['verbs'])})" in readme


def commands() -> Iterator[list[str]]:
    """What each file starts, as words after the program's name."""
    (deployment,) = [document for document in documents() if document["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["illume"]
    yield container["args"]
    unit = (CLUSTERS / "service" / "illume.service").read_text()
    (start,) = re.findall(r"^ExecStart=\S*/illume (.*)$", unit, re.MULTILINE)
    yield shlex.split(start)
    for line in re.findall(r"\billume ((?:plan|--version)[^>\n&]*)", (CLUSTERS / "Containerfile").read_text()):
        yield shlex.split(line)


def test_the_files_start_commands_and_options_that_exist() -> None:
    group = LateGroup()
    for first, *rest in commands():
        if first != "--version":
            command = group.get_command(click.Context(group), first)
            assert command is not None, first
            known = {option for parameter in command.params for option in parameter.opts}
            assert {word.split("=")[0] for word in rest if word.startswith("--")} <= known


@pytest.mark.parametrize("file", ["Containerfile", "service/kubernetes.yaml", "service/illume.service"])
def test_nothing_secret_stands_in_them(file: str) -> None:
    assert SECRET.findall((CLUSTERS / file).read_text()) == []


def test_the_image_installs_the_pinned_torch_and_runs_as_nobody_special() -> None:
    text = (CLUSTERS / "Containerfile").read_text()
    constraints = (CLUSTERS.parent / "constraints.txt").read_text()
    assert re.search(r"^torch==", constraints, re.MULTILINE)
    assert text.index("USER 1000") < text.index("illume --version")
