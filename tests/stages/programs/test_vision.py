"""Texts of the contrastive pre-training as byte ids."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.programs.vision import byte_ids
from stages.programs.vision_config import NUM_BYTE_IDS


@given(st.text(), st.integers(1, 40))
def test_ids_are_bytes_plus_one_padded_with_0(text: str, max_bytes: int) -> None:
    ids = byte_ids(text, max_bytes)
    assert ids.shape == (max_bytes,)
    assert 0 <= ids.min() <= ids.max() < NUM_BYTE_IDS
    data = text.encode()[:max_bytes]
    assert bytes((ids[: len(data)] - 1).tolist()) == data
    assert text == "" or not ids[len(data) :].any()


def test_an_empty_text_has_one_token() -> None:
    assert torch.equal(byte_ids("", 3), torch.tensor([ord(" ") + 1, 0, 0]))
