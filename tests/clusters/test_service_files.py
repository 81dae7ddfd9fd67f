"""The files that bring the service to a cluster: manifests as the Kubernetes API takes them, commands that exist."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from orchestrator.cli import LateGroup

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "clusters"
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
    for name in ("Containerfile", "try_image.sh"):
        for line in re.findall(r"\billume ((?:plan|run|status|--version)[^>\n&']*)", (CLUSTERS / name).read_text()):
            yield shlex.split(line)


def test_the_files_start_commands_and_options_that_exist() -> None:
    group = LateGroup()
    for first, *rest in commands():
        if first != "--version":
            command = group.get_command(click.Context(group), first)
            assert command is not None, first
            known = {option for parameter in command.params for option in parameter.opts}
            assert {word.split("=")[0] for word in rest if word.startswith("--")} <= known


@pytest.mark.parametrize("file", ["Containerfile", "try_image.sh", "service/kubernetes.yaml", "service/illume.service"])
def test_nothing_secret_stands_in_them(file: str) -> None:
    assert SECRET.findall((CLUSTERS / file).read_text()) == []


def test_the_image_installs_the_pinned_torch_and_runs_as_nobody_special() -> None:
    """Every instruction that can be judged without an engine; `try_image.sh` builds it where there is one."""
    text = (CLUSTERS / "Containerfile").read_text()
    assert text.index("USER 1000") < text.index("illume --version")
    (command,) = re.findall(r"torch=\$\((sed -n '[^']*' constraints\.txt)\)", text)
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"torch==[\d.]+\n", done.stdout), done.stdout


def test_what_the_image_copies_is_in_the_repository_or_made_by_the_makefile() -> None:
    text = (CLUSTERS / "Containerfile").read_text()
    copied = [words.split()[1:-1] for words in re.findall(r"^COPY .*$", text, re.MULTILINE)]
    assert copied == [["constraints.txt"], ["build/wheel/*.whl"]]
    assert (ROOT / "constraints.txt").is_file()
    assert "--wheel-dir build/wheel ." in (ROOT / "Makefile").read_text()
    ignored = [ROOT / name for name in (".dockerignore", ".containerignore") if (ROOT / name).exists()]
    assert ignored == [], "they would have to let the wheel through"


def test_what_the_image_is_told_is_declared_and_exists() -> None:
    text = (CLUSTERS / "Containerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    given = dict(re.findall(r"^ARG (\w+)=\"?([^\"\n]*)\"?$", text, re.MULTILINE))
    used = set(re.findall(r"\$\{?([A-Z_]+)\b", "\n".join(line for line in text.splitlines() if line[:1] != "#")))
    assert used == set(given)
    assert set(given["EXTRAS"].split(",")) <= project["optional-dependencies"].keys()
    (python,) = re.findall(r"python:(\d+\.\d+)-", given["BASE"])
    assert python in SpecifierSet(project["requires-python"])
    after_from = text[text.index("\nFROM") :]
    assert all(f"ARG {name}" in after_from for name in used - {"BASE"}), "one before FROM is empty behind it"
    wheel, extras = "illume_orchestrator-0.2.0-py3-none-any.whl", "a,b"
    (install,) = re.findall(r'-c constraints\.txt ("\$\{wheel\}\[\$\{EXTRAS\}\]")', text)
    words = f"wheel=./{wheel}; EXTRAS={extras}; printf %s {install}"
    assert subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=True).stdout == f"./{wheel}[a,b]"


def test_the_script_that_tries_the_image_is_named_and_valid() -> None:
    script = (CLUSTERS / "try_image.sh").read_text()
    assert subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=True).stderr == ""
    assert "`try_image.sh`" in (CLUSTERS / "README.md").read_text()
    (pattern,) = re.findall(r"sed '(s/\S+/)'", script)
    wheel = "build/wheel/illume_orchestrator-0.2.0-py3-none-any.whl"
    done = subprocess.run(["sed", pattern], input=wheel, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0.2.0"
