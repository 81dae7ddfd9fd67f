"""Judges the words of a record: what is empty, broken, not meant for people, or dangerous to train on."""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from data_pipelines.captions.extraction import _without_template
from data_pipelines.captions.patterns import (
    BOILERPLATE,
    CONTROL,
    DESCRIBE,
    FILE_NAME,
    FILE_NAME_WORDS,
    HTML,
    INJECTION,
    INVISIBLE,
    LOREM,
    MOJIBAKE,
    NOTHING,
    TOKENS,
    URL,
)
from data_pipelines.captions.personal_data import SIGNS, kinds_in
from data_pipelines.curation.config import CurationConfig
from data_pipelines.datasets.records import IMAGE, Reject

_WORDS, _VOWEL, _UNSPOKEN = re.compile(r"[a-z]+"), re.compile(r"[aeiouy]"), re.compile(r"[^aeiouy]{5}")
_ANY_WORDS = re.compile(r"[^\W\d_]+")
SAME_LETTERS = 12
_SAME_LETTER = re.compile(rf"(.)\1{{{SAME_LETTERS - 1}}}")
MANY_WORDS = 10  # so many that say little by being few different ones
_WIDE = re.compile("[\u2e80-\uffef]")  # one sign of Chinese can be a word


@dataclass(frozen=True, kw_only=True)
class Words:
    """One text of a record and how strictly it is read."""

    text: str
    kind: str  # "caption": describes a picture; "answer": replies to a question; "free": text without a picture


def kinds_of(task: str, turns: Sequence[tuple[str, str]]) -> Iterator[str]:
    """What each turn is: a kind of `Words`, "" for the pictures that are asked for."""
    if task in ("generation", "editing"):
        yield from ("caption" if role == "human" else "" for role, _ in turns)
        return
    for (_, question), _ in zip(turns[::2], turns[1::2], strict=True):
        describing = task == "understanding" and DESCRIBE.search(question) is not None
        yield "free" if task == "text" else "question"
        yield "free" if task == "text" else "caption" if describing else "answer"


def words_of(task: str, turns: Sequence[tuple[str, str]]) -> Iterator[Words]:
    """The texts of a record that are judged."""
    for turn, kind in zip(turns, kinds_of(task, turns), strict=True):
        if kind:
            yield words_of_turn(turn, kind)


def words_of_turn(turn: tuple[str, str], kind: str) -> Words:
    role, text = turn
    if role == "human":
        text = _without_template(text) if kind == "caption" else text.replace(IMAGE, "")
    return Words(text=text, kind=kind)


def judge_words(task: str, turns: Sequence[tuple[str, str]], config: CurationConfig) -> Reject | None:
    """The first thing that is wrong with the texts of a record."""
    for words in words_of(task, turns):
        problem = judge_text(words, config)
        if problem is not None:
            return problem
    return None


def judge_text(words: Words, config: CurationConfig) -> Reject | None:
    """The first check that a text fails, in the order of `_CHECKS`; a question may be the picture alone."""
    if words.kind == "question" and not INVISIBLE.sub("", words.text):
        return None
    used = frozenset(words.text)
    for reason, kinds, signs, check in _CHECKS:
        if words.kind in kinds and (not signs or not signs.isdisjoint(used)):
            detail = check(words.text, config)
            if detail:
                return Reject(reason=reason, detail=f"{detail}: {words.text[:80]!r}")
    return None


def fails(words: Words, reason: str, config: CurationConfig) -> bool:
    """Whether one check finds something in a text, all others aside."""
    check = next((check for name, kinds, _, check in _CHECKS if name == reason and words.kind in kinds), None)
    return check is not None and check(words.text, config) != ""


def _empty(text: str, config: CurationConfig) -> str:
    return "" if INVISIBLE.sub("", text) else "no words"


def _too_long(text: str, config: CurationConfig) -> str:
    return f"{len(text)} characters" if len(text) > config.max_caption_chars else ""


def _too_short(text: str, config: CurationConfig) -> str:
    enough = config.min_caption_chars
    speaking = (character for character in text if unicodedata.category(character)[0] in "LNMS")
    letters = sum(1 for _ in itertools.islice(speaking, enough))
    return f"{letters} letters" if letters < enough and not _WIDE.search(text) else ""


def _personal(text: str, config: CurationConfig) -> str:
    return ", ".join(kinds_in(text)) if config.drop_personal_data else ""


def _file_name(text: str, config: CurationConfig) -> str:
    return "a file's name" if FILE_NAME.match(text) and not FILE_NAME_WORDS.match(text) else ""


def _gibberish(text: str, config: CurationConfig) -> str:
    if LOREM.search(text):
        return "filler text"
    if len(text.strip()) > 3 and not any(sign.isalpha() or unicodedata.category(sign) == "So" for sign in text):
        return "marks and digits alone"
    spoken = _ANY_WORDS.findall(text.lower())
    if any(len(word) >= SAME_LETTERS and _SAME_LETTER.search(word) for word in spoken):
        return "one letter over and over"
    if len(spoken) >= MANY_WORDS and len(set(spoken)) <= len(spoken) // (4 if len(spoken) < 100 else 8):
        return "the same few words over and over"
    long_words = [word for word in _WORDS.findall(text.lower()) if len(word) > 3]
    unspoken = [word for word in long_words if not _VOWEL.search(word) or _UNSPOKEN.search(word)]
    return "words without vowels" if len(long_words) >= 3 and 2 * len(unspoken) > len(long_words) else ""


def _matches(pattern: re.Pattern[str], name: str) -> Callable[[str, CurationConfig], str]:
    return lambda text, config: name if pattern.search(text) else ""


def _says(pattern: re.Pattern[str], name: str) -> Callable[[str, CurationConfig], str]:
    return lambda text, config: name if pattern.search(text.lower()) else ""


ALL = frozenset({"caption", "answer", "question", "free"})
ABOUT_PICTURES = frozenset({"caption", "answer", "question"})
SPOKEN = frozenset({"caption", "answer"})
CAPTION = frozenset({"caption"})
ANY: frozenset[str] = frozenset()
# The third is signs of which a text must have one for the check to find something, which is sooner seen.
_CHECKS: tuple[tuple[str, frozenset[str], frozenset[str], Callable[[str, CurationConfig], str]], ...] = (
    ("caption_empty", ALL, ANY, _empty),
    ("caption_empty", CAPTION, ANY, _matches(NOTHING, "a word that stands for none")),
    (
        "caption_mojibake",
        ABOUT_PICTURES,
        frozenset("ÃâÂïÐ"),
        _matches(MOJIBAKE, "UTF-8 that was read as another encoding"),
    ),
    ("caption_bad_encoding", ALL, frozenset("\ufffd"), _matches(re.compile("\ufffd"), "bytes that are not UTF-8")),
    ("caption_control_chars", ALL, ANY, _matches(CONTROL, "control characters")),
    ("caption_too_long", SPOKEN, ANY, _too_long),
    ("caption_special_tokens", ALL, frozenset("<[{"), _matches(TOKENS, "a control token")),
    ("caption_html", ABOUT_PICTURES, frozenset("<&["), _matches(HTML, "markup")),
    ("caption_url", SPOKEN, frozenset(":."), _matches(URL, "an address")),
    ("caption_pii", SPOKEN, SIGNS, _personal),
    ("caption_filename", SPOKEN, ANY, _file_name),
    ("caption_too_short", CAPTION, ANY, _too_short),
    ("caption_boilerplate", CAPTION, ANY, _says(BOILERPLATE, "words that stand under many pictures")),
    ("caption_prompt_injection", SPOKEN, ANY, _says(INJECTION, "an order to whoever reads it")),
    ("caption_gibberish", CAPTION, ANY, _gibberish),
)
