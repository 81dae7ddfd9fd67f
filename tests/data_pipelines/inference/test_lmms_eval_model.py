"""The adapter for lmms-eval, with a stand-in for the few names of it that the adapter uses."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data_pipelines.tiny_run import TinyRun


@dataclass(frozen=True)
class Manifest:
    model_id: str
    simple_class_path: str


class Base:
    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "lmms_eval.api.model", SimpleNamespace(lmms=Base))
    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", SimpleNamespace(ModelManifest=Manifest))
    module = importlib.import_module("data_pipelines.inference.lmms_eval_model")
    yield module
    del sys.modules["data_pipelines.inference.lmms_eval_model"]


def random_image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def request(document: int, **settings: Any) -> SimpleNamespace:
    arguments = ("<image> What is it?", settings, lambda found: found["images"], document, "task", "test")
    return SimpleNamespace(args=arguments)


def test_the_manifest_names_the_class(adapter: ModuleType) -> None:
    module, _, name = adapter.MANIFEST.simple_class_path.rpartition(".")
    assert adapter.MANIFEST.model_id == "illume_plus"
    assert getattr(sys.modules[module], name) is adapter.IllumePlusForLmmsEval


def test_requests_are_answered_in_their_order(adapter: ModuleType, tiny_run: TinyRun) -> None:
    model = adapter.IllumePlusForLmmsEval(
        tokenizer=str(tiny_run.tokenizer), mllm=str(tiny_run.mllm), device="cpu", batch_size="2"
    )
    documents = [{"images": [random_image(0)]}, {"images": None}, {"images": [[random_image(1), random_image(2)]]}]
    model.task_dict = {"task": {"test": documents}}
    lengths = (12, 8, 12)
    requests = [request(number, max_new_tokens=length) for number, length in enumerate(lengths)]
    together = model.generate_until(requests)
    assert len(together) == 3
    assert together == [model.generate_until([alone])[0] for alone in requests]


def test_settings_of_a_task_are_followed(adapter: ModuleType) -> None:
    assert adapter._sampling({}).greedy
    assert adapter._sampling({"max_new_tokens": 16}).max_new_tokens == 16
    warm = adapter._sampling({"temperature": 0.7, "top_p": 0.9})
    assert (warm.greedy, warm.text.temperature, warm.text.top_p) == (False, 0.7, 0.9)
    assert adapter._cut("yes\n\nno", ["\n\n"]) == "yes"
    assert adapter._cut("yes", None) == "yes"
    with pytest.raises(ValueError, match="the task gives a str"):
        adapter._flat("film.mp4")
