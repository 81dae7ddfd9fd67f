"""Scorers give the results of transformers, whatever the batch and the mode of the image."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, ViTForImageClassification

from data_pipelines.curation.config import decode_limits
from data_pipelines.images.decoding import decode
from data_pipelines.scoring.model_files import class_labels, model_files
from data_pipelines.scoring.scorers import Aesthetic, Classifier, ScorerError, Similarity
from tests.data_pipelines.curation.curated import CONFIG, drawn, encoded
from tests.data_pipelines.scoring.scored import CAPTIONS, ROUNDING, score_rows
from tests.data_pipelines.scoring.tiny_scorers import LABELS, WIDTH, write_clip, write_head


def plain_cosine(folder: Path, data: bytes, caption: str) -> float:
    """The cosine by the documented use of transformers, one image at a time."""
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
    rows = score_rows(records, similarity, tmp_path / "t.parquet")
    for number, caption in enumerate(CAPTIONS):
        assert rows[number]["fit"] == pytest.approx(plain_cosine(clip, encoded(drawn(number)), caption), abs=ROUNDING)
    assert rows[3]["fit"] == pytest.approx(plain_cosine(clip, encoded(drawn(0)), CAPTIONS[1]), abs=ROUNDING)
    assert len({row["fit"] for row in rows[:4]}) == 4


def test_grey_transparent_and_turned_images_are_scored_as_they_are_seen(similarity: Similarity) -> None:
    seen = drawn(4, (48, 64)).convert("L")
    clear = Image.merge("LA", (seen, Image.new("L", seen.size, 255)))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(seen.transpose(Image.Transpose.ROTATE_90), exif=exif)
    ways = [encoded(seen), encoded(seen.convert("RGB")), encoded(seen.convert("RGBA")), encoded(clear), turned]
    decoded = [decode(data, decode_limits(CONFIG)) for data in ways]
    features_BD = similarity.extract_features(
        [similarity.prepare(image) for image in decoded if isinstance(image, Image.Image)]
    )
    assert len(features_BD) == len(ways)
    np.testing.assert_allclose(features_BD, np.repeat(features_BD[:1], len(ways), 0), atol=ROUNDING)
    hidden = decode(encoded(Image.new("RGBA", (32, 32), (0, 0, 0, 0))), decode_limits(CONFIG))
    assert isinstance(hidden, Image.Image)
    assert hidden.getpixel((3, 3)) == (255, 255, 255)


def test_a_classifier_gives_the_probability_of_its_label(classifier: Path, records: Path, tmp_path: Path) -> None:
    found = {
        label: score_rows(records, Classifier(classifier, label, "cpu", torch.float32), tmp_path / f"{label}.parquet")
        for label in LABELS
    }
    model = ViTForImageClassification.from_pretrained(classifier).eval()
    prepare = AutoImageProcessor.from_pretrained(classifier, backend="pil")
    with torch.inference_mode():
        expected = model(**prepare(images=drawn(0), return_tensors="pt")).logits.softmax(-1)[0]
    assert [found[label][0]["fit"] for label in LABELS] == pytest.approx(expected.tolist(), abs=ROUNDING)
    assert found["safe"][5]["fit"] is not None, "a class needs no words"
    assert class_labels(classifier) == list(LABELS)


def test_an_aesthetic_score_is_linear_in_the_direction_of_the_image(
    clip: Path, similarity: Similarity, records: Path, tmp_path: Path
) -> None:
    head = write_head(tmp_path / "head.safetensors")
    rows = score_rows(records, Aesthetic(clip, head, "cpu", torch.float32), tmp_path / "t.parquet")
    direction_D = similarity.extract_features([similarity.prepare(drawn(0))])[0]
    assert rows[0]["fit"] == pytest.approx(load_file(head)["weight"][0].numpy() @ direction_D + 5.0, abs=1e-5)


def test_missing_weights_are_refused(clip: Path, classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="2 weights of the CLIPForImageClassification are not in its files"):
        Classifier(clip, "safe", "cpu", torch.float32)
    short = write_clip(tmp_path / "short")
    weights = {name: value for name, value in load_file(short / "model.safetensors").items() if "visual_p" not in name}
    save_file(weights, short / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ScorerError, match=r"1 weights .* the first is visual_projection\.weight; they would be random"):
        Similarity(short, "cpu", torch.float32)
    with pytest.raises(ScorerError, match="gives no features of images; expected a model like CLIP or SigLIP"):
        Similarity(classifier, "cpu", torch.float32)


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


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no safetensors; other weights are not read"):
        model_files(folder)
    with pytest.raises(ScorerError, match="cannot be loaded"):
        Similarity(folder, "cpu", torch.float32)
