"""Pages of stage kinds: what they say, and the answer to a wrong name."""

import pytest

from orchestrator.errors import RecipeError
from orchestrator.reference.kind_pages import find_keys, key_lines, kind_summary, kind_text, kind_to_json
from stages import STAGE_KINDS


def test_a_page_has_inputs_output_config_and_metrics() -> None:
    lines = [" ".join(line.split()) for line in kind_text(STAGE_KINDS["curate"], STAGE_KINDS).splitlines()]
    for line in (
        "scores scores@1, one or more, optional; made by score_images",
        "anchors list of [whole number, whole number], required # (height, width) in pixels that images are cropped to",
        "min_side whole number, default 64 # pixels, upright",
        "# duplicates",
        "keep records that are kept",
    ):
        assert line in lines


@pytest.mark.parametrize("kind", STAGE_KINDS.values(), ids=STAGE_KINDS)
def test_every_kind_says_what_it_does_and_what_it_measures(kind: object) -> None:
    page = kind_to_json(kind)  # type: ignore[arg-type]  # of the parametrization
    assert len(str(page["summary"])) > 20
    assert page["metrics"]
    assert page["config"]


def test_kinds_of_one_file_say_different_things() -> None:
    summaries = [kind_summary(kind) for kind in STAGE_KINDS.values()]
    assert len(set(summaries)) == len(summaries)


def test_one_key_is_shown_with_those_below_it() -> None:
    name, keys = find_keys("train_mllm.loop.optimizer", STAGE_KINDS)
    assert name == "train_mllm"
    lines = key_lines(keys)
    assert lines[0].split() == ["optimizer", "mapping,", "optional"]
    assert any(line.startswith("    warmup_share") for line in lines)
    assert find_keys("curate.config.min_side", STAGE_KINDS) == find_keys("curate.min_side", STAGE_KINDS)
    assert "hang_after_s" in "\n".join(key_lines(find_keys("retry", STAGE_KINDS)[1]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("curat", "found no stage kind 'curat'; did you mean 'curate'?"),
        ("curate.min_sid", "kind 'curate' has no key 'min_sid'; did you mean 'min_side'?"),
        ("train_mllm.warmup_share", "did you mean 'loop.optimizer.warmup_share'?"),
        ("retry.wait", "kind 'retry' has no key 'wait'; did you mean 'wait_s'?"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        find_keys(name, STAGE_KINDS)
    assert message in str(caught.value)


def test_the_section_of_execution_is_named_like_a_key() -> None:
    kind, keys = find_keys("train_mllm.execution", STAGE_KINDS)
    assert (kind, {key.path for key in keys} >= {"strategy", "keep_checkpoints"}) == ("train_mllm", True)
