"""Reconstruction metrics equal a plain computation, and do not depend on how samples are split into parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from data_pipelines.datasets.reader import CuratedDataset
from data_pipelines.evaluation.reconstruction import score_part, summarize
from data_pipelines.images.model_input import open_upright
from data_pipelines.tokens.tokenize import samples_to_tokenize
from models.dualvitok.geometry import fit_to_anchor
from models.dualvitok.model import DualViTok
from models.metrics.image_metrics import psnr, ssim, to_levels
from models.metrics.inception import InceptionFeatures
from tests.data_pipelines.tiny_run import TOKENIZER

SHARD = "d-00000"
ANCHORS = ((64, 64), (64, 128))


@pytest.fixture(scope="module")
def model() -> DualViTok:
    torch.manual_seed(0)
    return DualViTok(TOKENIZER).eval()


@pytest.fixture(scope="module")
def inception() -> InceptionFeatures:
    torch.manual_seed(0)
    return InceptionFeatures()


@pytest.fixture(scope="module")
def made(make_dataset: Callable[..., Any]) -> Any:
    return make_dataset(24, name="d")


def score(made: Any, model: DualViTok, out: Path, ids: list[str], **options: Any) -> Path:
    out.mkdir()
    score_part(
        CuratedDataset(made.dataset),
        SHARD,
        model=model,
        sample_ids=ids,
        anchors=ANCHORS,
        batch_size=4,
        out=out,
        **({"inception": None} | options),
    )
    return out


def test_scores_equal_a_plain_loop(made: Any, model: DualViTok, tmp_path: Path) -> None:
    dataset = CuratedDataset(made.dataset)
    ids = samples_to_tokenize(dataset, SHARD, ("generation",))
    rows = pq.read_table(score(made, model, tmp_path / "all", ids) / "scores.parquet").to_pylist()
    stored = {sample.sample.sample_id: sample for sample in dataset.stored_samples(SHARD, dataset.rows(SHARD))}
    assert {row["sample_id"] for row in rows} == set(ids)
    for row in rows:
        sample = stored[row["sample_id"]]
        image = sample.sample.images[row["slot"]]
        fitted = fit_to_anchor(open_upright(sample.image_bytes(row["slot"]), image, "test"), image.anchor)
        original = torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            made_levels = to_levels(model.decode(model.encode(original.float() / 127.5 - 1)))
        pair = made_levels.double() / 255, original.double() / 255
        assert row["psnr"] == pytest.approx(psnr(*pair).item(), abs=0.02)  # other batch, other rounding of a level
        assert row["ssim"] == pytest.approx(ssim(*pair).item(), abs=1e-3)


def test_metrics_do_not_depend_on_the_parts(
    made: Any, model: DualViTok, inception: InceptionFeatures, tmp_path: Path
) -> None:
    ids = samples_to_tokenize(CuratedDataset(made.dataset), SHARD, ("generation",))
    whole = summarize([score(made, model, tmp_path / "whole", ids, inception=inception)])
    halves = [
        score(made, model, tmp_path / name, part, inception=inception)
        for name, part in (("first", ids[:3]), ("second", ids[3:]))
    ]
    assert summarize(halves) == pytest.approx(whole, rel=1e-3)
    assert whole["images"] == whole["rfid_images"] == len(ids)
    assert whole["rfid"] > 0
    assert 0 < whole["semantic_codes_used"] <= 1
    assert whole["pixel_perplexity"] >= 1
    assert "psnr/64x64" in whole


def test_without_inception_there_is_no_rfid(made: Any, model: DualViTok, tmp_path: Path) -> None:
    ids = samples_to_tokenize(CuratedDataset(made.dataset), SHARD, ("generation",))[:2]
    out = score(made, model, tmp_path / "few", ids)
    assert "rfid" not in summarize([out])
    assert (out / "images.png").stat().st_size > 0


def test_no_samples_give_no_metrics(made: Any, model: DualViTok, tmp_path: Path) -> None:
    assert summarize([score(made, model, tmp_path / "none", [])])["images"] == 0
    assert summarize([]) == {"images": 0.0}
