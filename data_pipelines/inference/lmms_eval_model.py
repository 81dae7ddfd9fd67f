"""The unified model for lmms-eval: the model `illume_plus`, found if this package is installed with lmms-eval.

    lmms_eval --model illume_plus --model_args tokenizer=EXPORT/tokenizer,mllm=EXPORT/mllm --tasks pope,mme
Answers are decoded greedily with at most 1024 tokens, as published; the images of a question come before its text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image

from data_pipelines.inference.illume_plus import IllumePlus
from models.mllm.config import LevelSampling, SamplingConfig

MANIFEST = ModelManifest(model_id="illume_plus", simple_class_path=f"{__name__}.IllumePlusForLmmsEval")


class IllumePlusForLmmsEval(lmms):
    """ILLUME+ as a model of lmms-eval; `tokenizer` and `mllm` are folders of the artifacts or of an export."""

    def __init__(self, tokenizer: str, mllm: str, device: str = "cuda", batch_size: int | str = 1, **_: Any) -> None:
        super().__init__()
        self._model = IllumePlus.load(Path(tokenizer), Path(mllm), device=device)
        self._batch_size = int(batch_size)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers to the requests, in their order; requests with the same settings are answered in batches."""
        answers: dict[int, str] = {}
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        for numbers in groups.values():
            for first in range(0, len(numbers), self._batch_size):
                chosen = numbers[first : first + self._batch_size]
                chosen_answers = self._answer([requests[number] for number in chosen])
                answers.update(zip(chosen, chosen_answers, strict=True))
        return [answers[number] for number in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("illume_plus generates text; choose tasks with output_type generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError("illume_plus answers a single question; choose single-round tasks")

    def _answer(self, requests: Sequence[Any]) -> list[str]:
        questions = []
        for request in requests:
            context, _, to_visual, document, task, split = request.args
            images = _flat(to_visual(self.task_dict[task][split][document]))
            questions.append((images, context.replace("<image>", "").strip()))
        settings = requests[0].args[1]
        answers = self._model.ask(questions, _sampling(settings))
        return [_cut(answer, settings.get("until")) for answer in answers]


def _sampling(settings: dict[str, Any]) -> SamplingConfig:
    """The sampling settings of a task: greedy unless it sets a temperature."""
    config = SamplingConfig.published_understanding()
    config = replace(config, max_new_tokens=int(settings.get("max_new_tokens", config.max_new_tokens)))
    temperature = float(settings.get("temperature") or 0)
    if temperature <= 0:
        return config
    text = LevelSampling(temperature=temperature, top_p=float(settings.get("top_p") or 1.0))
    return replace(config, text=text, greedy=False)


def _cut(answer: str, until: str | Iterable[str] | None) -> str:
    """The answer up to the first of the stop texts."""
    for stop_text in [until] if isinstance(until, str) else until or ():
        if stop_text:
            answer = answer.split(stop_text, 1)[0]
    return answer


def _flat(visuals: Any) -> list[Image.Image]:
    """The images of a task's visuals: None, an image, a list, or nested lists."""
    if visuals is None:
        return []
    if isinstance(visuals, (list, tuple)):
        return [image for part in visuals for image in _flat(part)]
    if isinstance(visuals, Image.Image):
        return [visuals]
    raise ValueError(f"illume_plus reads images, but the task gives a {type(visuals).__name__}")
