"""Models that score pictures: what they say is what transformers says, whatever the batch and the picture's mode."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, ViTForImageClassification

from data_pipelines.curation.config import measuring
from data_pipelines.images.decoding import decode
from data_pipelines.images.facts import inspect
from data_pipelines.images.limits import DecodeLimits
from data_pipelines.scoring.bounds import MEASURED_SCORES
from data_pipelines.scoring.model_files import labels_of, model_files
from data_pipelines.scoring.score_shard import ScoringSettings, score_shard
from data_pipelines.scoring.scorers import Aesthetic, Classifier, Scorer, ScorerError, Similarity
from tests.data_pipelines.curation.test_judge import CONFIG, encoded, picture, records_of
from tests.data_pipelines.scoring.tiny_scorers import LABELS, WIDTH, write_classifier, write_clip, write_head

CAPTIONS = ("a red square", "two blue circles and a triangle far away", "x")
ROUNDING = 2e-6  # of 32-bit sums in another order


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def similarity(clip: Path) -> Similarity:
    return Similarity(clip, "cpu", torch.float32)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven records: three plain pictures, one again with other words, a broken one, one without words, a long one."""
    data = [encoded(picture(seed)) for seed in range(3)]
    long = encoded(Image.new("RGB", (600, 4), (200, 10, 10)))
    lines = [(f"p{number}", data[number], CAPTIONS[number]) for number in range(3)]
    lines += [
        ("again", data[0], CAPTIONS[1]),
        ("broken", data[1][:90], "a"),
        ("silent", data[2], " "),
        ("l", long, "l"),
    ]
    return records_of(tmp_path_factory.mktemp("records"), lines)


def table(records: Path, scorer: Scorer, out: Path, **settings: Any) -> list[dict[str, Any]]:
    width = settings.pop("width", 0)
    chosen = ScoringSettings(**{"batch": 2, **settings})
    score_shard(records, "part", out, score="fit", scorer=scorer, settings=chosen, embedding_width=width)
    rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return rows


def plain_cosine(folder: Path, data: bytes, caption: str) -> float:
    """By the book of transformers, one picture at a time."""
    model = CLIPModel.from_pretrained(folder).eval()
    image = Image.open(io.BytesIO(data)).convert("RGB")
    pixels = AutoImageProcessor.from_pretrained(folder, backend="pil")(images=image, return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(folder)([caption], truncation=True, return_tensors="pt")
    with torch.inference_mode():
        out = model(**pixels, **tokens)
    return float((out.image_embeds * out.text_embeds).sum())


def test_similarity_is_the_cosine_that_the_model_gives(
    clip: Path, similarity: Similarity, records: Path, tmp_path: Path
) -> None:
    rows = table(records, similarity, tmp_path / "t.parquet")
    for number, caption in enumerate(CAPTIONS):
        assert rows[number]["fit"] == pytest.approx(plain_cosine(clip, encoded(picture(number)), caption), abs=ROUNDING)
    assert rows[3]["fit"] == pytest.approx(plain_cosine(clip, encoded(picture(0)), CAPTIONS[1]), abs=ROUNDING)
    assert len({row["fit"] for row in rows[:4]}) == 4


def test_there_is_no_score_for_broken_or_silent_or_endless_pictures(
    similarity: Similarity, records: Path, tmp_path: Path
) -> None:
    rows = table(records, similarity, tmp_path / "t.parquet", width=WIDTH)
    assert [row["fit"] is None for row in rows] == [False] * 4 + [True] * 3
    assert [not any(row["embedding"]) for row in rows] == [False] * 4 + [True, False, True]
    assert rows[0]["embedding"] == rows[3]["embedding"]
    assert np.linalg.norm(rows[1]["embedding"]) == pytest.approx(1, abs=1e-3)
    assert [(row["row"], row["slot"]) for row in rows] == [(number, 0) for number in range(7)]


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_scores_are_the_same_whatever_the_batch(
    similarity: Similarity, records: Path, tmp_path: Path, batch: int
) -> None:
    first = table(records, similarity, tmp_path / "a.parquet")
    second = table(records, similarity, tmp_path / "b.parquet", batch=batch, decode_threads=1)
    for one, other in zip(first, second, strict=True):
        assert one["fit"] == (None if other["fit"] is None else pytest.approx(other["fit"], abs=ROUNDING))


def test_grey_transparent_and_turned_pictures_are_scored_as_they_are_seen(similarity: Similarity) -> None:
    seen = picture(4, (48, 64)).convert("L")
    clear = Image.merge("LA", (seen, Image.new("L", seen.size, 255)))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(seen.transpose(Image.Transpose.ROTATE_90), exif=exif)
    ways = [encoded(seen), encoded(seen.convert("RGB")), encoded(seen.convert("RGBA")), encoded(clear), turned]
    decoded = [decode(data, measuring(CONFIG)) for data in ways]
    looks_BD = similarity.look([similarity.prepare(image) for image in decoded if isinstance(image, Image.Image)])
    assert len(looks_BD) == len(ways)
    np.testing.assert_allclose(looks_BD, np.repeat(looks_BD[:1], len(ways), 0), atol=ROUNDING)
    hidden = decode(encoded(Image.new("RGBA", (32, 32), (0, 0, 0, 0))), measuring(CONFIG))
    assert isinstance(hidden, Image.Image)
    assert hidden.getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("limit", [{"max_pixels": 1000}, {"max_file_bytes": 100}, {"formats": ("JPEG",)}])
def test_files_beyond_the_limits_are_never_decoded(
    similarity: Similarity, records: Path, tmp_path: Path, limit: Mapping[str, Any]
) -> None:
    limits = DecodeLimits(**limit)
    assert {row["fit"] for row in table(records, similarity, tmp_path / "t.parquet", limits=limits)} == {None}


def test_a_classifier_gives_the_probability_of_its_label(classifier: Path, records: Path, tmp_path: Path) -> None:
    found = {
        label: table(records, Classifier(classifier, label, "cpu", torch.float32), tmp_path / f"{label}.parquet")
        for label in LABELS
    }
    model = ViTForImageClassification.from_pretrained(classifier).eval()
    prepare = AutoImageProcessor.from_pretrained(classifier, backend="pil")
    with torch.inference_mode():
        expected = model(**prepare(images=picture(0), return_tensors="pt")).logits.softmax(-1)[0]
    assert [found[label][0]["fit"] for label in LABELS] == pytest.approx(expected.tolist(), abs=ROUNDING)
    assert found["safe"][5]["fit"] is not None, "a class needs no words"
    assert labels_of(classifier) == list(LABELS)


def test_an_aesthetic_score_is_linear_in_the_direction_of_the_picture(
    clip: Path, similarity: Similarity, records: Path, tmp_path: Path
) -> None:
    head = write_head(tmp_path / "head.safetensors")
    rows = table(records, Aesthetic(clip, head, "cpu", torch.float32), tmp_path / "t.parquet")
    direction_D = similarity.look([similarity.prepare(picture(0))])[0]
    assert rows[0]["fit"] == pytest.approx(load_file(head)["weight"][0].numpy() @ direction_D + 5.0, abs=1e-5)


def test_weights_that_are_missing_are_not_made_up(clip: Path, classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="2 weights of the CLIPForImageClassification are not in its files"):
        Classifier(clip, "safe", "cpu", torch.float32)
    short = write_clip(tmp_path / "short")
    weights = {name: value for name, value in load_file(short / "model.safetensors").items() if "visual_p" not in name}
    save_file(weights, short / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ScorerError, match=r"1 weights .* the first is visual_projection\.weight; they would be random"):
        Similarity(short, "cpu", torch.float32)
    with pytest.raises(ScorerError, match="gives no features of pictures; expected a model like CLIP or SigLIP"):
        Similarity(classifier, "cpu", torch.float32)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no safetensors; other weights are not read"):
        model_files(folder)
    with pytest.raises(ScorerError, match="cannot be loaded"):
        Similarity(folder, "cpu", torch.float32)


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine", "AutoModel": "code.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: ...\n")
    with pytest.raises(ScorerError, match="cannot be loaded"):
        Similarity(folder, "cpu", torch.float32)
    assert not (tmp_path / "ran").exists()


def test_a_head_of_another_model_is_refused(clip: Path, tmp_path: Path) -> None:
    scorer = Aesthetic(clip, write_head(tmp_path / "wide.safetensors", 8), "cpu", torch.float32)
    with pytest.raises(ScorerError, match="the head takes 8 features, but the model gives 16"):
        scorer.scores(np.zeros((1, WIDTH), np.float32), [""])
    save_file({"weight": torch.zeros(2, WIDTH), "bias": torch.zeros(2)}, tmp_path / "two.safetensors")
    with pytest.raises(ScorerError, match=r"expected weight \[1, D\] and bias \[1\]"):
        Aesthetic(clip, tmp_path / "two.safetensors", "cpu", torch.float32)


def test_an_unknown_label_is_refused_with_those_that_there_are(classifier: Path) -> None:
    with pytest.raises(ScorerError, match="no label 'nsfw'; expected one of safe, unsafe, watermark"):
        Classifier(classifier, "nsfw", "cpu", torch.float32)


def test_scores_cannot_take_the_names_of_measured_ones() -> None:
    facts = inspect(encoded(picture(0)), measuring(CONFIG))
    assert set(MEASURED_SCORES) == set(getattr(facts, "scores", ()))  # a Reject has none
