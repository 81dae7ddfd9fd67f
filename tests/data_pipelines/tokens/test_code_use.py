"""The use of codebooks is counted over all shards, and a collapsed codebook is said to be one."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.tokens.code_use import code_use
from data_pipelines.tokens.collapse import collapse_warnings
from data_pipelines.tokens.token_shards import ImageCodes, TokenizerIdentity, TokensError, TokenShardWriter

TOKENIZER = TokenizerIdentity(sha256="e" * 64, semantic_codes=4, pixel_codes=64, pixel_factor=8)
ANCHOR = (56, 56)  # 4 semantic and 49 pixel codes


def shard(path: Path, pixel_codes: list[int], tokenizer: TokenizerIdentity = TOKENIZER) -> Path:
    """Images, each of one pixel code all over, and of the semantic codes 0, 1, 2, 3."""
    with TokenShardWriter(path, tokenizer) as writer:
        for number, code in enumerate(pixel_codes):
            writer.write(
                ImageCodes(
                    sample_id=f"{number:064x}",
                    slot=0,
                    anchor=ANCHOR,
                    semantic_YX=np.arange(4).reshape(2, 2),
                    pixel_YX=np.full((7, 7), code),
                )
            )
    return path


def test_codes_of_all_shards_count_together(tmp_path: Path) -> None:
    found = code_use([shard(tmp_path / "a", [0, 1]), shard(tmp_path / "b", [2, 3])])
    assert found["pixel_codes_used"] == pytest.approx(4 / 64)
    assert found["pixel_perplexity"] == pytest.approx(4)
    assert found["pixel_codes_per_entry"] == pytest.approx(4 * 49 / 64)
    assert (found["semantic_codes_used"], found["semantic_codes_per_entry"]) == (1.0, 4.0)
    assert code_use([]) == {}


def test_shards_of_two_tokenizers_are_not_counted_together(tmp_path: Path) -> None:
    other = TokenizerIdentity(sha256="d" * 64, semantic_codes=4, pixel_codes=64, pixel_factor=8)
    with pytest.raises(TokensError, match="made by tokenizer"):
        code_use([shard(tmp_path / "a", [0]), shard(tmp_path / "b", [0], other)])


def test_a_collapsed_codebook_is_named_with_its_use(tmp_path: Path) -> None:
    (warning,) = collapse_warnings(code_use([shard(tmp_path / "a", [7] * 12)]))
    assert warning.startswith("the pixel codebook has collapsed: 1.6 % of its codes are in use")
    assert "perplexity of 1.0" in warning


@pytest.mark.parametrize(
    ("used", "perplexity", "counted", "is_collapsed"),
    [
        (0.25, 40.0, 100.0, False),
        (0.01, 40.0, 100.0, True),
        (0.25, 1.5, 100.0, True),
        (0.01, 40.0, 1.0, False),  # too few codes to tell
    ],
)
def test_use_and_perplexity_decide(used: float, perplexity: float, counted: float, is_collapsed: bool) -> None:
    metrics = {"pixel_codes_used": used, "pixel_perplexity": perplexity, "pixel_codes_per_entry": counted}
    assert bool(collapse_warnings(metrics)) is is_collapsed


def test_metrics_without_the_use_of_codebooks_say_nothing() -> None:
    assert collapse_warnings({"rows": 3.0}) == []
