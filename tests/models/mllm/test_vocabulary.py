"""Image tokens: published ids, layout, and refusal of what is not a block."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.dualvitok.geometry import PUBLISHED_ANCHORS, pixel_grid, semantic_grid
from models.mllm.vocabulary import PIXEL_FEATURE, SEMANTIC_FEATURE, BlockError, VisionVocabulary

TINY = VisionVocabulary(first_id=100, semantic_codes=8, pixel_codes=12, resolutions=(16, 32))


def test_ids_for_qwen2_5_are_the_published_ones() -> None:
    vocabulary = VisionVocabulary.published()
    assert vocabulary.size == 131_111
    assert vocabulary.total == 282_776
    assert (vocabulary.start_of_image, vocabulary.end_of_image, vocabulary.end_of_line) == (151665, 151666, 151667)
    assert (vocabulary.start_of_level0, vocabulary.end_of_level0) == (151668, 151669)
    assert (vocabulary.start_of_level1, vocabulary.end_of_level1) == (151670, 151671)
    assert (vocabulary.height_id(64), vocabulary.height_id(1024)) == (151672, 151687)
    assert (vocabulary.width_id(64), vocabulary.width_id(1024)) == (151688, 151703)
    assert vocabulary.semantic_ids([0, 32_767]).tolist() == [151704, 184471]
    assert vocabulary.pixel_ids([0, 98_303]).tolist() == [184472, 282775]


def test_token_strings_are_in_the_order_of_the_ids() -> None:
    vocabulary = VisionVocabulary.published()
    strings = list(vocabulary.token_strings())
    assert len(strings) == len(set(strings)) == vocabulary.size
    assert strings[vocabulary.height_id(512) - vocabulary.first_id] == "<height_512>"
    assert strings[vocabulary.width_id(960) - vocabulary.first_id] == "<width_960>"
    assert strings[int(vocabulary.semantic_ids(41)) - vocabulary.first_id] == "<|image_level0_41|>"
    assert strings[int(vocabulary.pixel_ids(93)) - vocabulary.first_id] == "<|image_level1_93|>"


@pytest.mark.parametrize(
    ("size", "length"),
    [
        ((256, 256), 368),
        ((512, 512), 1404),
        ((384, 512), 1002),
        ((512, 384), 1014),
        ((1024, 256), 1454),
        ((320, 960), 1600),
    ],
)
def test_blocks_have_the_published_length(size: tuple[int, int], length: int) -> None:
    vocabulary = VisionVocabulary.published()
    grids = semantic_grid(*size), pixel_grid(*size)
    assert vocabulary.block_length(*grids) == length == len(vocabulary.feature_block_ids(*grids))
    tagged = vocabulary.block_ids(np.zeros(grids[0], dtype=int), np.zeros(grids[1], dtype=int), size)
    assert len(tagged) == length + 2
    assert vocabulary.tag_sizes(*tagged[:2]) == size


def test_every_published_anchor_has_tags() -> None:
    vocabulary = VisionVocabulary.published()
    assert all(vocabulary.tag_sizes(*vocabulary.tag_ids(anchor)) == anchor for anchor in PUBLISHED_ANCHORS)


def test_feature_block_has_placeholders_exactly_where_the_codes_are() -> None:
    features, block = TINY.feature_block_ids((1, 2), (2, 3)), TINY.block_ids([[3, 4]], [[1, 2, 3], [4, 5, 6]])
    assert np.array_equal(features == SEMANTIC_FEATURE, (block >= 111) & (block < 119))
    assert np.array_equal(features == PIXEL_FEATURE, block >= 119)
    assert np.array_equal(features[features >= 0], block[features >= 0])


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from([None, (16, 32)]),
    st.randoms(use_true_random=False),
)
def test_parsing_undoes_rendering(semantic, pixel, resolution, random) -> None:  # type: ignore[no-untyped-def]  # hypothesis
    semantic_YX = np.array([[random.randrange(8) for _ in range(semantic[1])] for _ in range(semantic[0])])
    pixel_YX = np.array([[random.randrange(12) for _ in range(pixel[1])] for _ in range(pixel[0])])
    parsed = TINY.parse_block(TINY.block_ids(semantic_YX, pixel_YX, resolution))
    assert np.array_equal(parsed[0], semantic_YX)
    assert np.array_equal(parsed[1], pixel_YX)


BLOCK = TINY.block_ids([[0, 1]], [[0, 1, 2]])


@given(st.integers(0, len(BLOCK) - 1), st.integers(-300, 400))
def test_any_changed_id_is_a_block_error_or_another_code(position: int, token: int) -> None:
    ids = BLOCK.copy()
    ids[position] = token
    try:
        semantic_YX, pixel_YX = TINY.parse_block(ids)
    except BlockError:
        return
    assert np.array_equal(TINY.block_ids(semantic_YX, pixel_YX), ids)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (BLOCK[:-1], r"ends at position 12, expected <end_of_image> \(101\)"),
        (BLOCK[1:], r"position 0 has id 103, expected <start_of_image> \(100\)"),
        (BLOCK[:4], r"position 2 opens a level that is never closed"),
        (np.append(BLOCK, 5), r"1 ids after <end_of_image>"),
        (np.delete(BLOCK, 4), r"position 2 does not have rows of equal length"),
        (
            np.where(BLOCK == 112, 119, BLOCK),
            r"position 3 has id 119 or its row is not closed",
        ),
        (BLOCK.astype(float), r"expected a flat list of integer ids"),
        ([], r"expected a flat list of integer ids"),
    ],
)
def test_what_is_not_a_block_is_refused_with_its_place(ids: object, message: str) -> None:
    with pytest.raises(BlockError, match=message):
        TINY.parse_block(ids)  # type: ignore[arg-type]  # wrong types on purpose


def test_codes_and_sizes_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match="semantic codes reach from 0 to 8, expected 0 to 7"):
        TINY.block_ids([[0, 8]], [[0]])
    with pytest.raises(ValueError, match="pixel codes reach from -1 to -1, expected 0 to 11"):
        TINY.pixel_ids(-1)
    with pytest.raises(ValueError, match="no height token for 48 pixels; the vocabulary has 16, 32"):
        TINY.height_id(48)
    with pytest.raises(ValueError, match=r"semantic codes have shape \(2,\)"):
        TINY.block_ids([0, 1], [[0]])
    with pytest.raises(ValueError, match="distinct positive sides in ascending order"):
        VisionVocabulary(first_id=0, semantic_codes=1, pixel_codes=1, resolutions=(32, 16))
