"""Runs trained models on held-out samples: one result per sample, with its images.

Samples of the synthetic shapes dataset carry their scene, so images and answers are checked exactly by reading them
back.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data_pipelines.datasets.reader import CuratedDataset, DatasetError, StoredSample
from data_pipelines.datasets.samples import IMAGE
from data_pipelines.evaluation.results import Result, Task, question_of, write_results
from data_pipelines.images.model_input import image_anchor, input_pixels, input_size, is_cropped, open_upright
from data_pipelines.inference.illume_plus import IllumePlus, Request
from data_pipelines.inference.image_tokenizer import to_image
from data_pipelines.shapes.language import ObjectDescription, describe, parse_caption
from data_pipelines.shapes.oracle import DetectedObject, read_scene
from data_pipelines.shapes.scenes import Figure, Scene
from models.dualvitok.geometry import Size
from models.metrics.image_metrics import psnr, ssim
from models.mllm.config import SamplingConfig

SAMPLES_OF: Mapping[Task, str] = {  # evaluation task -> task of the samples it uses
    "reconstruction": "generation",
    "generation": "generation",
    "understanding": "understanding",
    "editing": "editing",
    "enlargement": "generation",
}


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    understanding: SamplingConfig
    generation: SamplingConfig
    editing: SamplingConfig
    diffusion_steps: int = 20
    diffusion_guidance: float = 1.5
    seed: int = 0


def evaluate(
    model: IllumePlus, task: Task, samples: Sequence[StoredSample], settings: EvaluationSettings, output: Path
) -> list[Result]:
    """Run a task on samples; writes images as PNG files and the results to `output`."""
    results = _EVALUATORS[task](model, samples, settings, output)
    write_results(results, output)
    return results


def choose_samples(dataset: CuratedDataset, *, split: str, task: str, count: int) -> list[str]:
    """Ids of up to `count` kept samples of a task, evenly spaced in the order of the dataset."""
    ids = [
        row.tobytes().hex() for shard in dataset.shards for row in dataset.rows(shard, split=split, tasks=(task,)).ids
    ]
    count = min(count, len(ids))
    return [ids[number * len(ids) // count] for number in range(count)]


def find_samples(dataset: CuratedDataset, sample_ids: Sequence[str], *, split: str) -> list[StoredSample]:
    """The samples with these ids, in the given order. Raises: DatasetError if one is not in the split."""
    wanted = set(sample_ids)
    found: dict[str, StoredSample] = {}
    for shard in dataset.shards:
        rows = dataset.rows(shard, split=split)
        for row, offset, span in zip(rows.ids, rows.offsets.tolist(), rows.spans.tolist(), strict=True):
            sample_id = row.tobytes().hex()
            if sample_id in wanted and sample_id not in found:
                found[sample_id] = dataset.read(shard, offset, span)
    if missing := sorted(wanted - found.keys()):
        raise DatasetError(
            f"{dataset.folder}: {len(missing)} samples are not in split {split!r}, first {missing[0]}; plan again"
        )
    return [found[sample_id] for sample_id in sample_ids]


def most_frequent_answers(dataset: CuratedDataset, *, split: str, count: int) -> dict[str, str]:
    """The most frequent answer to each question in up to `count` understanding samples; key "": to any question."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    chosen = choose_samples(dataset, split=split, task="understanding", count=count)
    for stored in find_samples(dataset, chosen, split=split):
        for asked, answer in pairwise(stored.sample.turns):
            if (asked.role, answer.role) == ("human", "gpt"):
                answers[question_of(asked.text)][answer.text] += 1
                answers[""][answer.text] += 1
    return {question: counts.most_common(1)[0][0] for question, counts in answers.items()}


def _reconstruction(
    model: IllumePlus, samples: Sequence[StoredSample], settings: EvaluationSettings, output: Path
) -> list[Result]:
    results = []
    for stored in samples:
        target = _pixels(stored, 0, scale=1)
        (drawn,) = model.decode([model.encode(target)])
        results.append(_drawn_result("reconstruction", stored, output, drawn=drawn, target=target, slot=0))
    return results


def _enlargement(
    model: IllumePlus, samples: Sequence[StoredSample], settings: EvaluationSettings, output: Path
) -> list[Result]:
    assert model.decoder is not None, "enlargement needs a diffusion decoder"
    results = []
    for number, stored in enumerate(samples):
        codes = model.encode(_pixels(stored, 0, scale=1))
        (drawn,) = model.enlarge(
            [codes],
            steps=settings.diffusion_steps,
            guidance=settings.diffusion_guidance,
            seed=settings.seed + number,
        )
        (decoded,) = model.decode([codes])
        results.append(
            _drawn_result(
                "enlargement",
                stored,
                output,
                drawn=drawn,
                target=_pixels(stored, 0, scale=model.decoder.config.enlarge),
                slot=0,
                baseline=decoded.resize(drawn.size, Image.Resampling.BICUBIC),
            )
        )
    return results


def _generation(
    model: IllumePlus, samples: Sequence[StoredSample], settings: EvaluationSettings, output: Path
) -> list[Result]:
    requests = [
        Request(sample=stored.sample, resolution=image_anchor(stored.sample, 0), seed=settings.seed + number)
        for number, stored in enumerate(samples)
    ]
    answers = model.draw(requests, settings.generation)
    return [
        _drawn_result("generation", stored, output, drawn=drawn, target=_pixels(stored, 0, scale=1), slot=0)
        for stored, drawn in zip(samples, model.decode(answers), strict=True)
    ]


def _editing(
    model: IllumePlus, samples: Sequence[StoredSample], settings: EvaluationSettings, output: Path
) -> list[Result]:
    requests = [
        Request(
            sample=stored.sample,
            images=(_pixels(stored, 0, scale=1),),
            resolution=image_anchor(stored.sample, 1),
            seed=settings.seed + number,
        )
        for number, stored in enumerate(samples)
    ]
    answers = model.draw(requests, settings.editing)
    return [
        _drawn_result(
            "editing",
            stored,
            output,
            drawn=drawn,
            target=_pixels(stored, 1, scale=1),
            slot=1,
            baseline=_source_at(stored, drawn.size),
        )
        for stored, drawn in zip(samples, model.decode(answers), strict=True)
    ]


def _understanding(
    model: IllumePlus, samples: Sequence[StoredSample], settings: EvaluationSettings, output: Path
) -> list[Result]:
    samples = [_first_exchange(stored) for stored in samples]
    requests = [
        Request(sample=stored.sample, images=tuple(_inputs(model, stored)), seed=settings.seed + number)
        for number, stored in enumerate(samples)
    ]
    results = []
    for stored, answer in zip(samples, model.answer(requests, settings.understanding), strict=True):
        text, expected = model.text(answer), _last_answer(stored)
        expected_objects, found_objects = parse_caption(expected), parse_caption(text)
        is_caption = stored.sample.meta.get("kind") == "caption" and expected_objects is not None
        results.append(
            Result(
                task="understanding",
                sample_id=stored.sample.sample_id,
                prompt=_request_text(stored),
                answer=text,
                expected_answer=expected,
                expected=_pairs(expected_objects or ()) if is_caption else None,
                found=_pairs(found_objects or ()) if is_caption else None,
                files=_save_images(stored, output, "understanding", drawn=None),
            )
        )
    return results


def _first_exchange(stored: StoredSample) -> StoredSample:
    """The sample without later questions about the same images, since earlier answers give theirs away."""
    turns = stored.sample.turns
    if any(IMAGE in turn.text for turn in turns[2:]):
        return stored
    return replace(stored, sample=replace(stored.sample, turns=turns[:2]))


_EVALUATORS = {
    "reconstruction": _reconstruction,
    "generation": _generation,
    "understanding": _understanding,
    "editing": _editing,
    "enlargement": _enlargement,
}


def _drawn_result(
    task: Task,
    stored: StoredSample,
    output: Path,
    *,
    drawn: Image.Image,
    target: torch.Tensor,
    slot: int,
    baseline: Image.Image | None = None,
) -> Result:
    scene, source_scene = (_scene(stored, name) for name in ("scene", "source_scene"))
    seen = read_scene(np.asarray(drawn)) if scene else None
    scores = _similarity(drawn, target)
    if scene and source_scene and seen is not None:
        scores |= unchanged(source_scene, scene, seen, width=drawn.width)
    baseline_found = None
    if baseline is not None and scene:
        baseline_found = _found(read_scene(np.asarray(baseline)))
    return Result(
        task=task,
        sample_id=stored.sample.sample_id,
        prompt=_request_text(stored),
        expected=_pairs(describe(scene)) if scene else None,
        source=_pairs(describe(source_scene)) if source_scene else None,
        found=_found(seen) if seen is not None else None,
        scores=scores,
        baseline_found=baseline_found,
        baseline_scores=_similarity(baseline, target) if baseline is not None else {},
        files=_save_images(stored, output, task, drawn=drawn, slot=slot, baseline=baseline),
    )


def _similarity(image: Image.Image, target_CYX: torch.Tensor) -> dict[str, float]:
    """PSNR in dB and SSIM of an image against a target in [-1, 1]; equal images count as 100 dB."""
    image_BCYX = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()[None] / 255
    target_BCYX = (target_CYX.cpu()[None] + 1) / 2
    return {
        "psnr_db": float(psnr(image_BCYX, target_BCYX).clamp(max=100.0)),
        "ssim": float(ssim(image_BCYX, target_BCYX)),
    }


def unchanged(source: Scene, target: Scene, seen: Sequence[DetectedObject], *, width: int) -> dict[str, float]:
    """Share of the figures that the edit leaves alone which were drawn with their shape and colour where they were: the
    centre is off by less than the radius. Nothing for an edit that leaves none alone."""
    kept = [figure for figure in source.figures if figure in target.figures]
    if not kept:
        return {}
    scale = width / target.width

    def is_there(figure: Figure) -> bool:
        return any(
            (thing.shape, thing.colour) == (figure.shape, figure.colour)
            and math.hypot(thing.x - scale * figure.x, thing.y - scale * figure.y) < scale * figure.radius
            for thing in seen
        )

    return {"unchanged": sum(map(is_there, kept)) / len(kept)}


def _source_at(stored: StoredSample, size_wh: tuple[int, int]) -> Image.Image:
    """The image to edit as the model reads it, at the size of the edited one."""
    image: Image.Image = to_image(_pixels(stored, 0, scale=1))
    return image if image.size == size_wh else image.resize(size_wh, Image.Resampling.BICUBIC)


def _found(seen: Sequence[DetectedObject]) -> list[tuple[str, str]]:
    return [(detected.shape, detected.colour) for detected in seen]


def _pixels(stored: StoredSample, slot: int, *, scale: int) -> torch.Tensor:
    """Image `slot` cropped to its anchor times `scale`, CYX in [-1, 1]."""
    anchor = image_anchor(stored.sample, slot)
    size: Size = (anchor[0] * scale, anchor[1] * scale)
    return torch.from_numpy(input_pixels(_open(stored, slot), size, crop=True))


def _inputs(model: IllumePlus, stored: StoredSample) -> list[torch.Tensor]:
    """All images of an understanding sample as the model reads them."""
    sizes = model.model_input.sizes
    return [
        torch.from_numpy(
            input_pixels(
                _open(stored, slot),
                input_size(stored.sample, slot, sizes),
                crop=is_cropped(stored.sample, slot, sizes),
            )
        )
        for slot in range(len(stored.sample.images))
    ]


def _open(stored: StoredSample, slot: int) -> Image.Image:
    where = f"sample {stored.sample.sample_id}, image {slot}"
    return open_upright(stored.image_bytes(slot), stored.sample.images[slot], where)


def _save_images(
    stored: StoredSample,
    output: Path,
    task: str,
    *,
    drawn: Image.Image | None,
    slot: int = 0,
    baseline: Image.Image | None = None,
) -> dict[str, str]:
    files = {}
    images = {
        "input": _open(stored, 0),
        "target": _open(stored, slot) if slot else None,
        "drawn": drawn,
        "baseline": baseline if not slot else None,  # that of an edit is its input
    }
    for name, image in images.items():
        if image is not None:
            files[name] = f"{task}-{stored.sample.sample_id[:16]}-{name}.png"
            image.convert("RGB").save(output / files[name])
    return files


def _scene(stored: StoredSample, name: str) -> Scene | None:
    value = stored.sample.meta.get(name)
    return Scene.from_json(value) if isinstance(value, Mapping) else None


def _pairs(objects: Sequence[ObjectDescription]) -> list[tuple[str, str]]:
    return [(described.shape, described.colour) for described in objects]


def _request_text(stored: StoredSample) -> str:
    turns = [turn.text for turn in stored.sample.turns if turn.role == "human"]
    return turns[-1] if turns else ""


def _last_answer(stored: StoredSample) -> str:
    turns = [turn.text for turn in stored.sample.turns if turn.role == "gpt"]
    return turns[-1] if turns else ""
