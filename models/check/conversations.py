"""Conversations: ids, labels and images of the published dataset code, and the tokens of image blocks.

The only file of `models` that imports another top-level package: conversations are made by `data_pipelines`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.datasets.samples import Sample, SampleError, SampleImage, Turn
from data_pipelines.images.model_input import InputSizes
from data_pipelines.tokens.conversations import RenderedSample, render
from data_pipelines.tokens.text_tokenizer import ChatTokenizer
from models.check.report import Report, Vectors, VectorsError
from models.mllm.vocabulary import IGNORED_LABEL, SEMANTIC_FEATURE, VisionVocabulary

_IMAGE = -200  # what the published dataset writes where an input image goes
_UNKNOWN_SIZE = (480, 640)  # of input images without a stated size; their features collapse into one placeholder
_TASKS = {"DefaultDataset": "understanding", "Text2ImageDataset": "generation", "SingleTurnEditDataset": "editing"}
_NOTES = {"description", "templates", "tiny_tokenizer", "image_token_layout"}


def check_conversations(vectors: Vectors, report: Report) -> None:
    """Every group of cases in the file, and the layout of an image."""
    facts = vectors.facts
    published = VisionVocabulary.published()
    tiny = facts["tiny_tokenizer"]
    semantic_codes, pixel_codes = tiny["levels"]
    vocabulary = VisionVocabulary(
        first_id=tiny["first_added_id"],
        semantic_codes=semantic_codes,
        pixel_codes=pixel_codes,
        resolutions=published.resolutions,
    )
    report.expect_equal("tiny_tokenizer total", vocabulary.total, tiny["total"])
    if "image_token_layout" in facts:
        _check_layout(facts["image_token_layout"], vocabulary, published, report)
    chat = _tokenizer(Path(vectors.where).with_name(tiny["file"]))
    for group, cases in facts.items():
        if group in _NOTES:
            continue
        if not _are_cases(cases):
            report.skip(group, "no cases of a known kind")
            continue
        for name, case in cases.items():
            _check_case(f"{group}/{name}", case, chat, vocabulary, report)


def _tokenizer(path: Path) -> ChatTokenizer:
    if not path.is_file():
        raise VectorsError(f"{path}: no such file; expected the tokenizer of the vectors beside them")
    return ChatTokenizer.load(path)


def _are_cases(cases: object) -> bool:
    return isinstance(cases, Mapping) and all(
        isinstance(case, Mapping) and {"sample_in", "token_ids", "labels"} <= case.keys() for case in cases.values()
    )


def _check_layout(
    facts: Mapping[str, Any], tiny: VisionVocabulary, published: VisionVocabulary, report: Report
) -> None:
    codes = facts["semantic_codes"], facts["pixel_codes"]
    for name, vocabulary in (("tiny_ids", tiny), ("qwen2_5_ids", published)):
        if name in facts:
            report.expect_equal(f"image_token_layout {name}", vocabulary.block_ids(*codes).tolist(), facts[name])
    strings = list(published.token_strings())
    names = [strings[token - published.first_id] for token in published.block_ids(*codes)]
    report.expect_equal("image_token_layout token_names", names, facts["token_names"])
    report.expect_equal("image_token_layout rendered", "".join(names), facts.get("rendered", "".join(names)))
    report.expect_equal("image_token_layout count", len(names), facts.get("count", len(names)))


def _check_case(
    name: str, case: Mapping[str, Any], chat: ChatTokenizer, vocabulary: VisionVocabulary, report: Report
) -> None:
    drops = case.get("cfg_dropout_p", 0.0)
    if drops not in (0.0, 1.0):
        report.skip(name, f"cfg_dropout_p {drops} leaves the outcome to chance; expected 0 or 1")
        return
    try:
        sample, codes = _sample(case)
        rendered = render(
            sample,
            tokenizer=chat,
            vocabulary=vocabulary,
            sizes=InputSizes(),
            codes=codes,
            drop_condition=drops == 1.0,
        )
    except (SampleError, ValueError) as error:
        report.fail(name, str(error))
        return
    ids, labels = _with_placeholders(rendered, vocabulary)
    report.expect_equal(f"{name} ids", ids, case["token_ids"], f"{len(ids)} equal")
    report.expect_equal(
        f"{name} labels", labels, case["labels"], f"{sum(label != IGNORED_LABEL for label in labels)} trained"
    )
    files = [case["sample_in"]["images"][slot] for slot in rendered.images]
    report.expect_equal(f"{name} input images", files, case.get("images_used") or [])


def _sample(case: Mapping[str, Any]) -> tuple[Sample, dict[int, tuple[np.ndarray, np.ndarray]]]:
    fields = case["sample_in"]
    files = fields.get("images", [])
    anchors = fields.get("matched_ratios", [None] * len(files))
    sizes = fields.get("image_sizes", [_UNKNOWN_SIZE] * len(files))
    images = tuple(
        SampleImage(width=size[1], height=size[0], anchor=tuple(anchor) if anchor else None)
        for size, anchor in zip(sizes, anchors, strict=True)
    )
    turns = tuple(Turn(role=turn["from"], text=turn["value"]) for turn in fields["conversations"])
    codes = {
        slot: (np.array(semantic), np.array(pixel))
        for slot, (semantic, pixel) in enumerate(fields.get("image_embed_inds", []))
    }
    return Sample(sample_id="0" * 64, task=_task(case, turns), turns=turns, images=images), codes


def _task(case: Mapping[str, Any], turns: Sequence[Turn]) -> str:
    """The task of the published class, or for other classes by the turns that contain images."""
    if case.get("dataset_class") in _TASKS:
        return _TASKS[case["dataset_class"]]
    asked, answered = ("".join(turn.text for turn in turns if turn.role == role) for role in ("human", "gpt"))
    if "<image>" not in answered:
        return "understanding"
    return "editing" if "<image>" in asked else "generation"


def _with_placeholders(rendered: RenderedSample, vocabulary: VisionVocabulary) -> tuple[list[int], list[int]]:
    """Ids and labels with every block of input features written as the published placeholder."""
    ids: list[int] = []
    labels: list[int] = []
    values, position = rendered.ids.tolist(), 0
    while position < len(values):
        is_input = values[position] == vocabulary.start_of_image and values[position + 2] == SEMANTIC_FEATURE
        ids.append(_IMAGE if is_input else values[position])
        labels.append(int(rendered.labels[position]))
        position = values.index(vocabulary.end_of_image, position) + 1 if is_input else position + 1
    return ids, labels
