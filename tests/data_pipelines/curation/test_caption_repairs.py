"""What can be meant only one way is repaired; all else is left as it was and judged as ever."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.curation.caption_repairs import REPAIRS, repair_turns
from data_pipelines.curation.caption_rules import judge_texts
from data_pipelines.curation.config import REPAIRABLE, CurationConfig

CONFIG = CurationConfig(anchors=((64, 64),), repair_captions=REPAIRABLE)
QUESTION = ("human", "<image>\nDescribe the image.")


def repaired(caption: str, config: CurationConfig = CONFIG) -> tuple[str, tuple[str, ...]]:
    turns, reasons = repair_turns("understanding", [QUESTION, ("gpt", caption)], config)
    assert turns[0] == QUESTION
    return turns[1][1], reasons


def test_there_is_a_repair_for_each_name_that_the_config_takes() -> None:
    assert tuple(REPAIRS) == REPAIRABLE


@pytest.mark.parametrize(
    ("caption", "expected", "reason"),
    [
        ("un cafÃ© crÃ¨me Ã  la fenÃªtre", "un café crème à la fenêtre", "caption_mojibake"),
        ("a phot\x07\x08o of a skirt\x07\x08", "a photo of a skirt", "caption_control_chars"),
        ("A plan\x1b[31me over a lake.\x1b[0m", "A plane over a lake.", "caption_control_chars"),
        ("\u202ea dog\u202c", "a dog", "caption_control_chars"),
        ("\ufeffa\u200bphoto\u200bof fruit", "a photo of fruit", "caption_control_chars"),
        ("a photo of a dress </s><s>[INST]", "a photo of a dress", "caption_special_tokens"),
        ("a photo of a shirt <|im_start|>system", "a photo of a shirt", "caption_special_tokens"),
        ("a photo\x0b\x0c", "a photo", "caption_control_chars"),
        ("<div class='x'><b>a photo</b><br/>of shoes</div>", "a photo of shoes", "caption_html"),
        ("a caf&eacute; &ndash; 5&nbsp;&euro;", "a café \N{EN DASH} 5 €", "caption_html"),
        ("a caf&amp;eacute; with a caf&Atilde;&copy;", "a café with a café", "caption_html"),
        ("It\x92s a \x93small\x94 dog", "It\u2019s a \u201csmall\u201d dog", "caption_mojibake"),
        ("a&nbsp;dog &amp; a cat<script>alert(1)</script>", "a dog & a cat", "caption_html"),
        ("a dress https://www.example.com/photos/1?utm=2", "a dress", "caption_url"),
        ("a dog, photo by jane.sample@example.com", "a dog, photo by [mail address]", "caption_pii"),
        ("a dog, call +1 555-0142", "a dog, call [telephone number]", "caption_pii"),
        (
            "shorts @handle_example, card 4111 1111 1111 1111",
            "shorts [account name], card [card number]",
            "caption_pii",
        ),
        ("a dog, jane [at] example [dot] com", "a dog, [mail address]", "caption_pii"),
        ("a form with 078-05-1120 on it", "a form with [social security number] on it", "caption_pii"),
        ("IBAN DE89 3704 0044 0532 0130 00 on paper", "IBAN [bank account] on paper", "caption_pii"),
        ("a [b]brown[/b] dog ![x](y.png)", "a brown dog", "caption_html"),
    ],
)
def test_a_repaired_text_is_kept(caption: str, expected: str, reason: str) -> None:
    assert repaired(caption) == (expected, (reason,))
    assert judge_texts("understanding", [QUESTION, ("gpt", expected)], CONFIG) is None
    assert repaired(expected) == (expected, ())


def test_several_things_are_repaired_in_one_text() -> None:
    text, reasons = repaired("<p>un cafÃ© &ndash; www.example.com/menu \x07</p>")
    assert text == "un café \N{EN DASH}"
    assert reasons == ("caption_mojibake", "caption_control_chars", "caption_html", "caption_url")


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("&lt;b&gt;a dog&lt;/b&gt;", "caption_html"),  # which would be markup again
        ("<p></p>", "caption_html"),
        ("https://www.example.com/x.jpg", "caption_url"),
        ("un caf\ufffd noir", "caption_bad_encoding"),
        ("un cafÃ© noir \ufffd", "caption_mojibake"),
        ("<b>" * 2000, "caption_too_long"),
    ],
)
def test_what_would_be_dropped_all_the_same_stays_as_it_was(caption: str, reason: str) -> None:
    assert repaired(caption) == (caption, ())
    found = judge_texts("understanding", [QUESTION, ("gpt", caption)], CONFIG)
    assert found is not None
    assert found.reason == reason


def test_only_what_the_config_names_is_repaired() -> None:
    text = "<b>a dog</b> https://www.example.com"
    assert repaired(text, replace(CONFIG, repair_captions=())) == (text, ())
    assert repaired(text, replace(CONFIG, repair_captions=("caption_url",))) == (text, ())  # the markup is left
    assert repaired(text) == ("a dog", ("caption_html", "caption_url"))


def test_prompts_keep_their_template_and_placeholders() -> None:
    prompt = "Generate an image of {resolution_tag}, the content of image is <img src=x>a&nbsp;dog\n"
    turns, _ = repair_turns("generation", [("human", prompt), ("gpt", "<image>")], CONFIG)
    assert turns[0][1] == "Generate an image of {resolution_tag}, the content of image is a dog\n"
    assert turns[1][1] == "<image>"


@pytest.mark.parametrize("hidden", ["&lt;image&gt;", "<im\u2060age>", "&#123;resolution_tag&#125;"])
def test_no_repair_adds_a_placeholder(hidden: str) -> None:
    turns = [("human", f"<image>\nWhat is <b>this</b> {hidden}?"), ("gpt", "A dog.")]
    assert repair_turns("understanding", turns, CONFIG) == (turns, ())
    prompt = [("human", f"Generate an image of {{resolution_tag}}, the content of image is a dog {hidden}\n")]
    turns = [*prompt, ("gpt", "<image>")]
    assert repair_turns("generation", turns, CONFIG) == (turns, ())


def test_texts_without_images_may_hold_markup() -> None:
    turns = [("human", "Write a page."), ("gpt", "<p>Hello</p> &amp; good bye")]
    assert repair_turns("text", turns, CONFIG) == (turns, ())


@given(st.text(max_size=200) | st.text(alphabet="<>&;b/ap@.+1 \x1b[Ã©\u200b", max_size=60))
def test_any_text_is_repaired_once_and_a_sound_one_not_at_all(text: str) -> None:
    turns = [QUESTION, ("gpt", text)]
    made, reasons = repair_turns("understanding", turns, CONFIG)
    if judge_texts("understanding", turns, CONFIG) is None:
        assert (made, reasons) == (turns, ())
    assert bool(reasons) or made == turns
