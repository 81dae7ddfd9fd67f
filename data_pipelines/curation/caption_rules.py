"""Judges the texts of a record: drops what is empty, broken, not meant for people, or dangerous to train on."""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from data_pipelines.captions.encodings import has_wrong_encoding
from data_pipelines.captions.extraction import strip_template
from data_pipelines.captions.patterns import (
    BOILERPLATE,
    CONTROL,
    CONTROL_TOKENS,
    DESCRIBE,
    EMPTY_CAPTION,
    FILE_NAME,
    FILE_NAME_WORDS,
    HTML,
    INJECTION,
    INVISIBLE,
    LOREM,
    URL,
)
from data_pipelines.captions.personal_data import PERSONAL_CHARACTERS, personal_data_kinds
from data_pipelines.curation.config import CurationConfig
from data_pipelines.datasets.records import IMAGE, Reject

_LATIN_WORDS, _VOWEL, _CONSONANTS = re.compile(r"[a-z]+"), re.compile(r"[aeiouy]"), re.compile(r"[^aeiouy]{5}")
_WORDS = re.compile(r"[^\W\d_]+")
SAME_LETTERS = 12  # a letter repeated this often in a row is gibberish
_SAME_LETTER = re.compile(rf"(.)\1{{{SAME_LETTERS - 1}}}")
MIN_REPEATED_WORDS = 10  # texts of so many words are checked for repeating a few different ones
_WIDE = re.compile("[\u2e80-\uffef]")  # a single Chinese character can be a word


@dataclass(frozen=True, kw_only=True)
class RecordText:
    """One text of a record; its kind decides which checks apply."""

    text: str
    # "caption": describes an image; "question" and "answer": about an image; "free": text without an image
    kind: str


def turn_kinds(task: str, turns: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The kind of each turn's text, see `RecordText`; "" for the turns that hold generated images."""
    if task in ("generation", "editing"):
        yield from ("caption" if role == "human" else "" for role, _ in turns)
        return
    for (_, question), _ in zip(turns[::2], turns[1::2], strict=True):
        asks_for_caption = task == "understanding" and DESCRIBE.search(question) is not None
        yield "free" if task == "text" else "question"
        yield "free" if task == "text" else "caption" if asks_for_caption else "answer"


def record_texts(task: str, turns: Sequence[tuple[str, str]]) -> Iterator[RecordText]:
    """The texts of a record that are judged."""
    for turn, kind in zip(turns, turn_kinds(task, turns), strict=True):
        if kind:
            yield turn_text(turn, kind)


def turn_text(turn: tuple[str, str], kind: str) -> RecordText:
    """The text of a turn without the template or the image placeholders of a human turn."""
    role, text = turn
    if role == "human":
        text = strip_template(text) if kind == "caption" else text.replace(IMAGE, "")
    return RecordText(text=text, kind=kind)


def judge_texts(task: str, turns: Sequence[tuple[str, str]], config: CurationConfig) -> Reject | None:
    """The first problem found in the texts of a record, None if there is none."""
    for record_text in record_texts(task, turns):
        problem = judge_text(record_text, config)
        if problem is not None:
            return problem
    return None


def judge_text(record_text: RecordText, config: CurationConfig) -> Reject | None:
    """The first check that a text fails, in the order of `_CHECKS`; a question may be the image alone."""
    text, kind = record_text.text, record_text.kind
    if kind == "question" and not INVISIBLE.sub("", text):
        return None
    characters = frozenset(text)
    for reason, kinds, needed, check in _CHECKS:
        if kind in kinds and (not needed or not needed.isdisjoint(characters)):
            detail = check(text, config)
            if detail:
                return Reject(reason=reason, detail=f"{detail}: {text[:80]!r}")
    return None


def fails_check(record_text: RecordText, reason: str, config: CurationConfig) -> bool:
    """Whether a text fails the check of this reason, whatever the other checks find."""
    check = next((check for name, kinds, _, check in _CHECKS if name == reason and record_text.kind in kinds), None)
    return check is not None and check(record_text.text, config) != ""


def _empty(text: str, config: CurationConfig) -> str:
    return "" if INVISIBLE.sub("", text) else "no words"


def _wrong_encoding(text: str, config: CurationConfig) -> str:
    return "read in another encoding than it was written in" if has_wrong_encoding(text) else ""


def _too_long(text: str, config: CurationConfig) -> str:
    return f"{len(text)} characters" if len(text) > config.max_caption_chars else ""


def _too_short(text: str, config: CurationConfig) -> str:
    minimum = config.min_caption_chars
    letters = (character for character in text if unicodedata.category(character)[0] in "LNMS")
    num_letters = sum(1 for _ in itertools.islice(letters, minimum))
    return f"{num_letters} letters" if num_letters < minimum and not _WIDE.search(text) else ""


def _personal_data(text: str, config: CurationConfig) -> str:
    return ", ".join(personal_data_kinds(text)) if config.drop_personal_data else ""


def _file_name(text: str, config: CurationConfig) -> str:
    return "a file's name" if FILE_NAME.match(text) and not FILE_NAME_WORDS.match(text) else ""


def _gibberish(text: str, config: CurationConfig) -> str:
    if LOREM.search(text):
        return "filler text"
    if len(text.strip()) > 3 and not any(char.isalpha() or unicodedata.category(char) == "So" for char in text):
        return "marks and digits alone"
    words = _WORDS.findall(text.lower())
    if any(len(word) >= SAME_LETTERS and _SAME_LETTER.search(word) for word in words):
        return "one letter over and over"
    if len(words) >= MIN_REPEATED_WORDS and len(set(words)) <= len(words) // (4 if len(words) < 100 else 8):
        return "the same few words over and over"
    long_words = [word for word in _LATIN_WORDS.findall(text.lower()) if len(word) > 3]
    unpronounceable = [word for word in long_words if not _VOWEL.search(word) or _CONSONANTS.search(word)]
    return "words without vowels" if len(long_words) >= 3 and 2 * len(unpronounceable) > len(long_words) else ""


def _matches(pattern: re.Pattern[str], name: str) -> Callable[[str, CurationConfig], str]:
    return lambda text, config: name if pattern.search(text) else ""


def _matches_lowercase(pattern: re.Pattern[str], name: str) -> Callable[[str, CurationConfig], str]:
    return lambda text, config: name if pattern.search(text.lower()) else ""


ALL = frozenset({"caption", "answer", "question", "free"})
ABOUT_IMAGES = frozenset({"caption", "answer", "question"})
CAPTION_OR_ANSWER = frozenset({"caption", "answer"})
CAPTION = frozenset({"caption"})
ANY: frozenset[str] = frozenset()
# Reason, kinds of text, characters, check. A check runs only on texts with one of the characters (empty: on all), as
# looking for them is quicker.
_CHECKS: tuple[tuple[str, frozenset[str], frozenset[str], Callable[[str, CurationConfig], str]], ...] = (
    ("caption_empty", ALL, ANY, _empty),
    ("caption_empty", CAPTION, ANY, _matches(EMPTY_CAPTION, "a word that stands for none")),
    ("caption_mojibake", ABOUT_IMAGES, ANY, _wrong_encoding),
    ("caption_bad_encoding", ALL, frozenset("\ufffd"), _matches(re.compile("\ufffd"), "bytes that are not UTF-8")),
    ("caption_control_chars", ALL, ANY, _matches(CONTROL, "control characters")),
    ("caption_too_long", CAPTION_OR_ANSWER, ANY, _too_long),
    ("caption_special_tokens", ALL, frozenset("<[{"), _matches(CONTROL_TOKENS, "a control token")),
    ("caption_html", ABOUT_IMAGES, frozenset("<&["), _matches(HTML, "markup")),
    ("caption_url", CAPTION_OR_ANSWER, frozenset(":."), _matches(URL, "an address")),
    ("caption_pii", CAPTION_OR_ANSWER, PERSONAL_CHARACTERS, _personal_data),
    ("caption_filename", CAPTION_OR_ANSWER, ANY, _file_name),
    ("caption_too_short", CAPTION, ANY, _too_short),
    ("caption_boilerplate", CAPTION, ANY, _matches_lowercase(BOILERPLATE, "words that stand under many pictures")),
    ("caption_prompt_injection", CAPTION_OR_ANSWER, ANY, _matches_lowercase(INJECTION, "an order to whoever reads it")),
    ("caption_gibberish", CAPTION, ANY, _gibberish),
)
