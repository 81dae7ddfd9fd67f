"""Tokenizing a shard: rows in order, codes that do not depend on neighbours, unreadable samples reported."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from data_pipelines.datasets.samples import SampleError, SampleImage
from data_pipelines.images.model_input import input_pixels, open_upright
from data_pipelines.tokens.token_shards import TokensError, TokenShard
from data_pipelines.tokens.tokenize import TokenizedShard, samples_to_tokenize, tokenize_shard, tokenizer_identity
from models.dualvitok.config import (
    BlocksConfig,
    ConvolutionsConfig,
    DualViTokConfig,
    PixelConfig,
    SemanticConfig,
    VisionConfig,
)
from models.dualvitok.model import DualViTok
from models.dualvitok.weights import WEIGHTS_FILE, save

SHARD = "d-00000"
ANCHORS = ((64, 64), (64, 128))


@pytest.fixture(scope="module")
def model() -> DualViTok:
    torch.manual_seed(0)
    blocks = BlocksConfig(width=32, num_heads=4, depth=1)
    convolutions = ConvolutionsConfig(
        channels=8, channel_multipliers=(1, 1, 2, 2), residual_blocks=1, attention_levels=(3,)
    )
    config = DualViTokConfig(
        vision=VisionConfig(depth=1, width=32, num_heads=4, output_width=48),
        semantic=SemanticConfig(encoder=blocks, decoder=blocks, code_width=8, codebook_size=64),
        pixel=PixelConfig(encoder=convolutions, decoder=convolutions, norm_groups=4, code_width=8, codebook_size=192),
    )
    return DualViTok(config).eval()


@pytest.fixture(scope="module")
def made(make_dataset: Callable[..., Any]) -> Any:
    return make_dataset(24, name="d")


@pytest.fixture
def tokenize(model: DualViTok, made: Any, tmp_path: Path) -> Callable[..., tuple[TokenizedShard, TokenShard]]:
    save(model, tmp_path)
    identity = tokenizer_identity(model, tmp_path / WEIGHTS_FILE)

    def run(sample_ids: list[str] | None = None, dataset: Path | None = None, **options: Any) -> Any:
        opened = CuratedDataset(dataset or made.dataset)
        wanted = sample_ids if sample_ids is not None else samples_to_tokenize(opened, SHARD, ("generation", "editing"))
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        done = tokenize_shard(
            opened,
            SHARD,
            model=model,
            tokenizer=identity,
            sample_ids=wanted,
            out=out,
            **({"anchors": ANCHORS, "batch_size": 4} | options),
        )
        return done, TokenShard(out)

    return run


def test_rows_are_in_input_order_and_counted(made: Any, tokenize: Callable[..., Any]) -> None:
    done, shard = tokenize()
    expected = [
        (made.ids[n], slot) for n, sample in enumerate(made.samples) if n % 4 > 1 for slot in range(len(sample.anchors))
    ]
    assert shard.row_keys() == expected
    assert (done.num_samples, done.num_images, done.quarantined) == (12, 18, ())
    assert done.images_per_anchor == {"64x128": 12, "64x64": 6}


def test_codes_are_those_of_the_images_encoded_alone(made: Any, model: DualViTok, tokenize: Callable[..., Any]) -> None:
    _, shard = tokenize()
    dataset = CuratedDataset(made.dataset)
    checked = 0
    for stored in dataset.stored_samples(SHARD, dataset.rows(SHARD, tasks=("generation", "editing"))):
        for slot, image in enumerate(stored.sample.images):
            assert image.anchor is not None
            opened = open_upright(stored.image_bytes(slot), image, "test")
            alone = model.encode(torch.from_numpy(input_pixels(opened, image.anchor, crop=True))[None])
            semantic, pixel = shard.codes(stored.sample.sample_id, slot)
            assert np.array_equal(semantic, alone.semantic_BYX[0].numpy())
            assert np.array_equal(pixel, alone.pixel_BYX[0].numpy())
            checked += 1
    assert checked == 18


@pytest.mark.parametrize("batch_size", [4, 5])
@pytest.mark.parametrize("take", [slice(0, 1), slice(3, 10, 2), slice(None)])
def test_codes_do_not_depend_on_which_samples_are_asked_for(
    tokenize: Callable[..., Any], batch_size: int, take: slice
) -> None:
    """So a shard that is cut in two to find a bad sample gives the same rows."""
    _, whole = tokenize(batch_size=batch_size)
    ids = list(dict.fromkeys(sample_id for sample_id, _ in whole.row_keys()))[take]
    _, part = tokenize(ids, batch_size=batch_size, decode_threads=1)
    assert len(part.row_keys()) > 0
    for key in part.row_keys():
        for first, second in zip(whole.codes(*key), part.codes(*key), strict=True):
            assert np.array_equal(first, second)


def damaged_copy(made: Any, folder: Path, at: int, data: bytes) -> Path:
    import shutil

    copy = Path(shutil.copytree(made.dataset, folder / "copy"))
    tar = copy / "shards" / f"{SHARD}.tar"
    content = bytearray(tar.read_bytes())
    content[at : at + len(data)] = data
    tar.write_bytes(content)
    return copy


def test_a_sample_that_cannot_be_read_is_left_out_whole_and_reported(
    made: Any, tokenize: Callable[..., Any], tmp_path: Path
) -> None:
    dataset = CuratedDataset(made.dataset)
    rows = dataset.rows(SHARD)
    edit = 3  # an editing sample: damage the end of its second image
    end = int(rows.offsets[edit] + rows.spans[edit])
    start = end - 700
    done, shard = tokenize(dataset=damaged_copy(made, tmp_path, start, b"\xff" * 300))
    assert [sample_id for sample_id, _ in done.quarantined] == [made.ids[edit]]
    assert "image 1" in done.quarantined[0][1]
    assert made.ids[edit] not in {sample_id for sample_id, _ in shard.row_keys()}
    assert done.num_samples == 11
    assert tokenize(dataset=tmp_path / "copy")[0].quarantined == done.quarantined


def test_a_damaged_header_loses_one_sample(made: Any, tokenize: Callable[..., Any], tmp_path: Path) -> None:
    rows = CuratedDataset(made.dataset).rows(SHARD)
    copy = damaged_copy(made, tmp_path, int(rows.offsets[6]), b"\0\1\2\3" * 128)
    done, _ = tokenize(dataset=copy)
    assert [sample_id for sample_id, _ in done.quarantined] == [made.ids[6]]
    assert str(tmp_path) not in done.quarantined[0][1]


def test_anchors_and_samples_that_are_not_known_are_refused(made: Any, tokenize: Callable[..., Any]) -> None:
    done, _ = tokenize(anchors=ANCHORS[:1])
    assert {reason for _, reason in done.quarantined} == {"image 0: anchor 64x128 (HxW) is none of the 1 known"}
    with pytest.raises(TokensError, match="anchor 60x64"):
        tokenize(anchors=((60, 64),))
    with pytest.raises(DatasetError, match="1 of 1 samples are not in its ledger"):
        tokenize(["0" * 64])


@pytest.mark.parametrize(("orientation", "mode"), [(1, "RGB"), (6, "RGB"), (3, "L"), (1, "RGBA"), (8, "P")])
def test_images_are_upright_and_rgb(orientation: int, mode: str) -> None:
    image = Image.new("RGB", (20, 10), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, "PNG", exif=exif)
    turned = orientation in (6, 8)
    recorded = SampleImage(width=10 if turned else 20, height=20 if turned else 10)
    opened = open_upright(buffer.getvalue(), recorded, "here")
    assert opened.mode == "RGB"
    assert opened.size == (recorded.width, recorded.height)


def test_an_image_of_another_size_than_recorded_is_refused() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10)).save(buffer, "PNG")
    with pytest.raises(SampleError, match="the dataset recorded 20x11"):
        open_upright(buffer.getvalue(), SampleImage(width=20, height=11), "here")
    for data in (b"", b"<html>", buffer.getvalue()[:40]):
        with pytest.raises(SampleError, match=r"^here: "):
            open_upright(data, SampleImage(width=20, height=10), "here")
