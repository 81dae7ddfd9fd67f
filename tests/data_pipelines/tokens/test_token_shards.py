"""Token shards give back the same codes, cost little more than their entropy, and refuse what does not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.tokens.token_shards import (
    GROUP_ROWS,
    METADATA_KEY,
    ImageCodes,
    TokenizerIdentity,
    TokensError,
    TokenShard,
    TokenShardWriter,
    block_ids,
    require_one_tokenizer,
)
from models.dualvitok.geometry import PUBLISHED_ANCHORS, Size
from models.mllm.vocabulary import VisionVocabulary

PUBLISHED = TokenizerIdentity(sha256="f" * 64, semantic_codes=32_768, pixel_codes=98_304, pixel_factor=16)
SMALL = TokenizerIdentity(sha256="e" * 64, semantic_codes=64, pixel_codes=192, pixel_factor=8)


def image_codes(number: int, anchor: Size, tokenizer: TokenizerIdentity, slot: int = 0) -> ImageCodes:
    rng = np.random.default_rng(number)
    semantic, pixel = tokenizer.grids(anchor, "test")
    return ImageCodes(
        sample_id=f"{number:064x}",
        slot=slot,
        anchor=anchor,
        semantic_YX=rng.integers(0, tokenizer.semantic_codes, semantic),
        pixel_YX=rng.integers(0, tokenizer.pixel_codes, pixel),
    )


def write(path: Path, rows: list[ImageCodes], tokenizer: TokenizerIdentity) -> Path:
    with TokenShardWriter(path, tokenizer) as writer:
        for row in rows:
            writer.write(row)
    return path


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    anchors=st.lists(st.sampled_from([*PUBLISHED_ANCHORS[:3], (256, 256), (32, 64)]), max_size=12),
    tokenizer=st.sampled_from([PUBLISHED, SMALL]),
)
def test_codes_come_back(tmp_path: Path, anchors: list[Size], tokenizer: TokenizerIdentity) -> None:
    rows = [image_codes(number, anchor, tokenizer, slot=number % 3) for number, anchor in enumerate(anchors)]
    shard = TokenShard(write(tmp_path / "a.parquet", rows, tokenizer))
    assert shard.tokenizer == tokenizer
    assert shard.row_keys() == [(row.sample_id, row.slot) for row in rows]
    for row in rows:
        semantic, pixel = shard.codes(row.sample_id, row.slot)
        assert np.array_equal(semantic, row.semantic_YX)
        assert np.array_equal(pixel, row.pixel_YX)


def test_many_rows_over_several_groups_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    anchors = [(256, 256), (512, 256)]
    rows = [image_codes(number, anchors[number % 3 == 0], PUBLISHED) for number in range(2 * GROUP_ROWS + 5)]
    path = write(tmp_path / "a.parquet", rows, PUBLISHED)
    shard = TokenShard(path)
    assert shard.num_groups == 3
    asked = np.random.default_rng(0).permutation(len(rows))[:50]
    for row, (semantic, pixel) in zip(asked, shard.read_rows(asked), strict=True):
        assert np.array_equal(semantic, rows[row].semantic_YX)
        assert np.array_equal(pixel, rows[row].pixel_YX)
    seen = np.concatenate([block.rows for block in shard.blocks()])
    assert np.array_equal(np.sort(seen), np.arange(len(rows)))
    assert path.read_bytes() == write(tmp_path / "b.parquet", rows, PUBLISHED).read_bytes()


def test_a_row_costs_at_most_a_quarter_more_than_its_entropy(tmp_path: Path) -> None:
    """683 bytes for 81 + 256 random codes at 256x256 (facts 9)."""
    rows = [image_codes(number, (256, 256), PUBLISHED) for number in range(4 * GROUP_ROWS)]
    path = write(tmp_path / "a.parquet", rows, PUBLISHED)
    assert path.stat().st_size / len(rows) < 1.25 * 683


def test_ids_of_a_block_equal_those_of_its_images(tmp_path: Path) -> None:
    vocabulary = VisionVocabulary.published(1000)
    rows = [image_codes(number, [(256, 256), (384, 512)][number % 2], PUBLISHED) for number in range(9)]
    blocks = TokenShard(write(tmp_path / "a.parquet", rows, PUBLISHED)).read_group(0)
    assert [len(block.rows) for block in blocks] == [5, 4]
    for block in blocks:
        for row, ids in zip(block.rows, block_ids(block, vocabulary), strict=True):
            assert np.array_equal(ids, vocabulary.block_ids(rows[row].semantic_YX, rows[row].pixel_YX))


def changed(**fields: Any) -> ImageCodes:
    good = image_codes(1, (256, 256), PUBLISHED)
    return ImageCodes(**({name: getattr(good, name) for name in good.__dataclass_fields__} | fields))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (changed(semantic_YX=np.full((9, 9), 32_768)), "from 32768 to 32768, expected 0 to 32767"),
        (changed(pixel_YX=np.full((16, 16), -1)), "pixel codes: from -1"),
        (changed(semantic_YX=np.zeros((9, 8), int)), r"shape \(9, 8\) of int64, expected integers of shape \(9, 9\)"),
        (changed(pixel_YX=np.zeros((16, 16))), "of float64, expected integers"),
        (changed(anchor=(250, 256)), "anchor 250x256"),
    ],
)
def test_wrong_codes_are_refused_on_writing(tmp_path: Path, codes: ImageCodes, message: str) -> None:
    with TokenShardWriter(tmp_path / "a.parquet", PUBLISHED) as writer, pytest.raises(TokensError, match=message):
        writer.write(codes)


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The shard with its columns changed behind the writer's back."""
    table = pq.read_table(path)
    metadata = pq.ParquetFile(path).metadata.metadata
    columns = table.to_pydict()
    change(columns)
    with pq.ParquetWriter(path, table.schema, compression="none", store_schema=False) as writer:
        writer.write_table(pa.table(columns, schema=table.schema))
        writer.add_key_value_metadata({METADATA_KEY: metadata[METADATA_KEY]})
    return path


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("semantic", b"\xff\xff" * 81, "semantic code 65535 in a codebook of 32768"),
        ("pixel_high", b"\xff" * 32, "in a codebook of 98304"),
        ("semantic", b"\0" * 160, "160 bytes of semantic codes in row .0, expected 162"),
        ("anchor_h", 512, "bytes of semantic codes in row"),
        ("anchor_h", 500, "anchor 500x256"),
        ("anchor_h", -16, "anchor -16x256"),
    ],
)
def test_wrong_codes_are_refused_on_reading(tmp_path: Path, column: str, value: Any, message: str) -> None:
    path = write(tmp_path / "a.parquet", [image_codes(1, (256, 256), PUBLISHED)], PUBLISHED)

    def change(columns: dict[str, Any]) -> None:
        columns[column] = [value]
        if column == "pixel_high":
            columns["pixel"] = [b"\xff\xff" * 256]

    with pytest.raises(TokensError, match=message):
        TokenShard(rewritten(path, change)).read_rows([0])


def test_files_that_are_no_token_shards_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(TokensError, match="no such token shard"):
        TokenShard(path)
    for content in (b"", b"PAR1", b"PAR1" + b"\xff" * 200 + b"PAR1", b"\0" * 4096):
        path.write_bytes(content)
        with pytest.raises(TokensError, match="not a Parquet file"):
            TokenShard(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(TokensError, match="does not say which tokenizer made it"):
        TokenShard(path)
    for metadata, message in (
        (b'{"format": 9}', "token format 9, expected 1"),
        (b'{"format": 1, "sha256": 3, "semantic_codes": 1, "pixel_codes": 1, "pixel_factor": 1}', "which tokenizer"),
        (b'{"format": 1, "sha256": "", "semantic_codes": 0, "pixel_codes": 1, "pixel_factor": 1}', "codebooks of 0"),
        (b"[]", "which tokenizer"),
    ):
        pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({METADATA_KEY: metadata}), path)
        with pytest.raises(TokensError, match=message):
            TokenShard(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_error_or_harmless_but_never_a_crash(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.parquet"
    content = bytearray(write(path, [image_codes(n, (256, 256), PUBLISHED) for n in range(3)], PUBLISHED).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        shard = TokenShard(path)
        shard.row_keys()
        blocks = list(shard.blocks())
    except TokensError:
        return
    for block in blocks:
        for index, row in enumerate(block.rows.tolist()):
            assert np.array_equal(block.pixel_NYX[index], image_codes(row, (256, 256), PUBLISHED).pixel_YX)


def test_shards_of_different_tokenizers_are_not_mixed(tmp_path: Path) -> None:
    first = TokenShard(write(tmp_path / "a.parquet", [], PUBLISHED))
    other = TokenizerIdentity(sha256="d" * 64, semantic_codes=32_768, pixel_codes=98_304, pixel_factor=16)
    second = TokenShard(write(tmp_path / "b.parquet", [], other))
    assert require_one_tokenizer([first, first]) == PUBLISHED
    assert require_one_tokenizer([]) is None
    with pytest.raises(TokensError, match="tokenize all datasets of one training with the same tokenizer"):
        require_one_tokenizer([first, second])
