"""Every task on a drawn dataset with random models: results that read back, with their images."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.datasets.reader import CuratedDataset, DatasetError, StoredSample
from data_pipelines.datasets.samples import Turn
from data_pipelines.evaluation.evaluate import (
    SAMPLES_OF,
    EvaluationSettings,
    choose_samples,
    evaluate,
    find_samples,
    most_frequent_answers,
    unchanged,
)
from data_pipelines.evaluation.results import TASKS, Result, Task, read_results
from data_pipelines.evaluation.sheet import results_sheet
from data_pipelines.evaluation.summary import summarize
from data_pipelines.inference.illume_plus import IllumePlus
from data_pipelines.shapes.oracle import DetectedObject, read_scene
from data_pipelines.shapes.scenes import Figure, Scene
from models.mllm.config import LevelSampling, SamplingConfig
from tests.data_pipelines.tiny_run import TinyRun

PLAIN = LevelSampling()
DRAWING = SamplingConfig(text=PLAIN, semantic=PLAIN, pixel=PLAIN)
SETTINGS = EvaluationSettings(
    understanding=SamplingConfig(text=PLAIN, semantic=PLAIN, pixel=PLAIN, max_new_tokens=6, max_images=0),
    generation=replace(DRAWING, guidance=1.5),
    editing=DRAWING,
    diffusion_steps=2,
)
IMAGE_FILES: dict[Task, list[str]] = {
    "reconstruction": ["drawn", "input"],
    "generation": ["drawn", "input"],
    "understanding": ["input"],
    "editing": ["drawn", "input", "target"],
    "enlargement": ["baseline", "drawn", "input"],
}


@pytest.fixture(scope="module")
def model(tiny_run: TinyRun) -> IllumePlus:
    return IllumePlus.load(tiny_run.tokenizer, tiny_run.mllm, tiny_run.decoder)


@pytest.fixture(scope="module")
def dataset(tiny_run: TinyRun) -> CuratedDataset:
    return CuratedDataset(tiny_run.dataset)


def samples_of(dataset: CuratedDataset, task: Task, count: int = 3) -> list[StoredSample]:
    ids = choose_samples(dataset, split="val", task=SAMPLES_OF[task], count=count)
    return find_samples(dataset, ids, split="val")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_writes_results_and_images(
    model: IllumePlus, dataset: CuratedDataset, tmp_path: Path, task: Task
) -> None:
    samples = samples_of(dataset, task)
    made = evaluate(model, task, samples, SETTINGS, tmp_path)
    found = read_results(tmp_path)
    assert [result.sample_id for result in found] == [stored.sample.sample_id for stored in samples]
    for result, before in zip(found, made, strict=True):
        assert sorted(result.files) == IMAGE_FILES[task]
        for file in result.files.values():
            with Image.open(file) as image:
                assert image.format == "PNG"
        moved = {name: str(tmp_path / file) for name, file in before.files.items()}
        assert result == replace(before, files=moved)
        if task != "understanding":
            assert result.expected
            assert result.found is not None
            assert result.scores["ssim"] <= 1


def test_images_have_the_size_of_what_they_are_compared_with(
    model: IllumePlus, dataset: CuratedDataset, tmp_path: Path
) -> None:
    samples = samples_of(dataset, "reconstruction")
    scales: dict[Task, int] = {"reconstruction": 1, "enlargement": 2}
    for task, scale in scales.items():
        results = evaluate(model, task, samples, SETTINGS, tmp_path)
        for result, stored in zip(results, samples, strict=True):
            height, width = stored.sample.images[0].anchor or (0, 0)
            with Image.open(tmp_path / result.files["drawn"]) as drawn:
                assert drawn.size == (scale * width, scale * height)


def test_trying_again_gives_the_same_and_another_seed_other_images(
    model: IllumePlus, dataset: CuratedDataset, tmp_path: Path
) -> None:
    samples = samples_of(dataset, "generation")

    def tried(name: str, seed: int) -> list[Result]:
        (tmp_path / name).mkdir()
        return evaluate(model, "generation", samples, replace(SETTINGS, seed=seed), tmp_path / name)

    assert tried("one", 0) == tried("two", 0)
    files = [sorted((tmp_path / name).iterdir()) for name in ("one", "two")]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    assert tried("three", 1000) != tried("four", 0)


def test_a_perfect_model_would_be_found_perfect(dataset: CuratedDataset, model: IllumePlus, tmp_path: Path) -> None:
    """The objects detected in the true images are those that the samples state."""
    samples = samples_of(dataset, "generation", count=6)
    results = evaluate(model, "reconstruction", samples, SETTINGS, tmp_path)
    true = [replace(result, found=read(tmp_path / result.files["input"])) for result in results]
    assert summarize(true, {})["reconstruction/exact"] == 1.0


def read(path: Path) -> list[tuple[str, str]]:
    with Image.open(path) as image:
        return [(detected.shape, detected.colour) for detected in read_scene(np.asarray(image.convert("RGB")))]


def test_samples_are_chosen_evenly_from_one_split(dataset: CuratedDataset) -> None:
    everything = choose_samples(dataset, split="val", task="generation", count=100)
    assert len(everything) == len(set(everything)) > 2
    assert choose_samples(dataset, split="val", task="generation", count=2) == [
        everything[0],
        everything[len(everything) // 2],
    ]
    assert choose_samples(dataset, split="val", task="generation", count=0) == []
    assert not set(everything) & set(choose_samples(dataset, split="train", task="generation", count=100))


def test_samples_come_in_the_given_order(dataset: CuratedDataset) -> None:
    ids = choose_samples(dataset, split="val", task="generation", count=3)[::-1]
    assert [stored.sample.sample_id for stored in find_samples(dataset, ids, split="val")] == ids
    with pytest.raises(DatasetError, match=r"1 samples are not in split 'train', first .*; plan again"):
        find_samples(dataset, ids[:1], split="train")


def test_the_most_frequent_answers_are_those_of_the_training_conversations(dataset: CuratedDataset) -> None:
    frequent = most_frequent_answers(dataset, split="train", count=100)
    texts = {
        turn.text
        for stored in find_samples(
            dataset, choose_samples(dataset, split="train", task="understanding", count=100), split="train"
        )
        for turn in stored.sample.turns
        if turn.role == "gpt"
    }
    assert "Describe the image." in frequent
    assert set(frequent.values()) <= texts
    assert not [question for question in frequent if "<image>" in question]
    assert most_frequent_answers(dataset, split="train", count=0) == {}


def test_only_the_first_exchange_about_an_image_is_tried(
    dataset: CuratedDataset, model: IllumePlus, tmp_path: Path
) -> None:
    samples = samples_of(dataset, "understanding", count=3)
    longer = [
        replace(
            stored,
            sample=replace(
                stored.sample,
                turns=(*stored.sample.turns, Turn(role="human", text="Are you sure?"), Turn(role="gpt", text="yes")),
            ),
        )
        for stored in samples
    ]
    for name in ("short", "long"):
        (tmp_path / name).mkdir()
    tried = evaluate(model, "understanding", longer, SETTINGS, tmp_path / "long")
    assert tried == evaluate(model, "understanding", samples, SETTINGS, tmp_path / "short")


def test_metrics_and_sheet_cover_all_tasks(model: IllumePlus, dataset: CuratedDataset, tmp_path: Path) -> None:
    results: Sequence[Result] = []
    for task in TASKS:
        (tmp_path / task).mkdir()
        evaluate(model, task, samples_of(dataset, task, count=2), SETTINGS, tmp_path / task)
        results = [*results, *read_results(tmp_path / task)]
    metrics = summarize(results, {})
    assert [metrics[f"{task}/samples"] for task in TASKS] == [2.0] * 5
    assert {"editing/exact/baseline", "enlargement/psnr_db/baseline", "generation/exact/chance"} <= set(metrics)
    results_sheet(results, metrics).save(tmp_path / "sheet.png")


def test_the_baseline_of_the_decoder_is_what_the_tokenizer_decodes_enlarged(
    model: IllumePlus, dataset: CuratedDataset, tmp_path: Path
) -> None:
    (stored, *_) = samples_of(dataset, "enlargement")
    (found,) = evaluate(model, "enlargement", [stored], SETTINGS, tmp_path)
    (small,) = evaluate(model, "reconstruction", [stored], SETTINGS, tmp_path)
    with Image.open(tmp_path / found.files["baseline"]) as baseline, Image.open(tmp_path / small.files["drawn"]) as own:
        assert baseline.size == (2 * own.width, 2 * own.height)
        assert np.array_equal(np.asarray(baseline), np.asarray(own.resize(baseline.size, Image.Resampling.BICUBIC)))
    assert found.baseline_scores.keys() == found.scores.keys() == {"psnr_db", "ssim"}


def test_a_copied_source_is_the_baseline_of_an_edit(model: IllumePlus, dataset: CuratedDataset, tmp_path: Path) -> None:
    for result in evaluate(model, "editing", samples_of(dataset, "editing", count=6), SETTINGS, tmp_path):
        assert Counter(result.baseline_found) == Counter(result.source)


@pytest.mark.parametrize(
    ("kept_x", "colour", "share"),
    [(30.0, "blue", 1.0), (38.0, "blue", 1.0), (50.0, "blue", 0.0), (30.0, "green", 0.0)],
    ids=["as and where it was", "moved by less than its radius", "moved away", "of another colour"],
)
def test_what_an_edit_leaves_alone_must_be_found_as_and_where_it_was(kept_x: float, colour: str, share: float) -> None:
    kept = figure("circle", "blue", x=30.0)
    before, changed = figure("square", "red", x=70.0), figure("square", "green", x=70.0)
    seen = [
        seen_at("square", "green", x=35.0),
        seen_at("circle", colour, x=kept_x / 2),
    ]  # at half the size of the scene
    assert unchanged(scene(kept, before), scene(kept, changed), seen, width=50) == {"unchanged": share}


def test_an_edit_that_leaves_nothing_alone_has_no_such_score() -> None:
    before, changed = figure("square", "red", x=70.0), figure("square", "green", x=70.0)
    assert unchanged(scene(before), scene(changed), [], width=50) == {}


def figure(shape: str, colour: str, *, x: float) -> Figure:
    return Figure(shape=shape, colour=colour, size="large", place="centre", x=x, y=25.0, radius=10.0)


def seen_at(shape: str, colour: str, *, x: float) -> DetectedObject:
    return DetectedObject(shape=shape, colour=colour, size="large", place="centre", x=x, y=12.5, radius=5.0, fit=0.9)


def scene(*figures: Figure) -> Scene:
    return Scene(height=50, width=100, background="white", figures=figures)
