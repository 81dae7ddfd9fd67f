"""Private parts of Ray: all of them are still there, and no other file names one."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cluster import ray_hooks
from orchestrator.cluster.ray_hooks import HOOKS, Hook, missing_hooks, without_unused_helpers, worker_failures
from orchestrator.failures.known_types import BY_DEFAULT, PRECISE

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("orchestrator", "stages", "data_pipelines", "models", "clusters")
ERRORS = ("ray.exceptions", "ray.train.v2.api.exceptions", "ray.train.v2._internal.exceptions")


def test_every_private_part_of_ray_is_still_there() -> None:
    assert missing_hooks() == []


@pytest.mark.parametrize(
    "gone",
    [
        Hook(module="ray._raylet", name="Config.reinitialize", why="read the environment again"),
        Hook(module="ray._private.gone", name="anything", why="a module"),
        Hook(module="ray._private.worker", text="_node_address_of_yore", why="an argument"),
    ],
)
def test_one_that_is_gone_is_named_with_what_it_was_for(gone: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_hooks, "HOOKS", (*HOOKS, gone))
    (sentence,) = missing_hooks()
    assert sentence.startswith(f"{gone.module}: no ")
    assert sentence.endswith(f"(seen in {ray_hooks.SEEN_IN}): {gone.why}")


def private_names(file: Path) -> Iterator[str]:
    """What a file names of Ray that starts with an underscore: modules, attributes, arguments."""
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        elif isinstance(node, ast.Call):
            callee = ast.unparse(node.func)
            names = [f"{callee}.{keyword.arg}" for keyword in node.keywords if keyword.arg]
        else:
            continue
        yield from (name for name in names if name.startswith("ray.") and "._" in name)


def test_no_other_file_names_a_private_part_of_ray() -> None:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py") if file.name != "ray_hooks.py"]
    found = {str(file.relative_to(ROOT)): list(private_names(file)) for file in files}
    assert {name: names for name, names in found.items() if names} == {}
    assert list(private_names(ROOT / "orchestrator" / "cluster" / "ray_hooks.py")), "the search finds what is there"
    texts = [hook.text or hook.name.rpartition(".")[2] for hook in HOOKS]
    private = {text.removeprefix("self.") for text in texts if text.removeprefix("self.").startswith("_")}
    for file in files:
        words = {node.value for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.Constant)}
        assert not words & private, f"{file}: belongs into ray_hooks.py"


def test_the_errors_of_ray_that_are_classified_by_name_exist() -> None:
    modules = [importlib.import_module(name) for name in ERRORS]
    names = [name.removeprefix("ray:") for name in {**PRECISE, **BY_DEFAULT} if name.startswith("ray:")]
    assert len(names) > 10
    assert [name for name in names if not any(hasattr(module, name) for module in modules)] == []


def test_a_trainer_is_made_without_its_unused_helpers() -> None:
    class DatasetsCallback:
        pass

    class StateCallback:
        pass

    class Trainer:
        def _create_default_callbacks(self) -> list[object]:
            return [DatasetsCallback(), StateCallback()]

    trainer = without_unused_helpers(Trainer)()
    assert [type(callback).__name__ for callback in trainer._create_default_callbacks()] == ["StateCallback"]
    assert isinstance(trainer, Trainer)


def test_the_errors_of_the_workers_are_found_by_rank() -> None:
    group, unanswered, died = RuntimeError("group"), RuntimeError("no answer"), RuntimeError("died")
    vars(unanswered)["health_check_failure"] = died
    vars(group)["worker_failures"] = {0: KeyError("x"), 3: unanswered}
    assert worker_failures(group)[3] is died
    assert isinstance(worker_failures(group)[0], KeyError)
    assert worker_failures(None) == worker_failures(RuntimeError("another")) == {}
