"""Repairs words that curation would otherwise drop a record for, where what was meant is beyond doubt.

Only texts that fail a check are touched. A record whose words would be dropped all the same stays as it was.
"""

import html
import re
from collections.abc import Callable, Mapping, Sequence

import ftfy

from data_pipelines.captions.patterns import CONTROL, HTML, TOKENS
from data_pipelines.captions.personal_data import without_personal_data
from data_pipelines.curation.caption_rules import fails, judge_words, kinds_of, words_of_turn
from data_pipelines.curation.config import CurationConfig
from data_pipelines.datasets.records import IMAGE

PLACES = (IMAGE, "{resolution_tag}")  # of what is not words: left alone, and none may come by a repair
_PLACES = re.compile(f"({'|'.join(map(re.escape, PLACES))})")
_ESCAPE_SEQUENCES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # colours of terminals
_WHOLE_URL = re.compile(r"(?i)\b(?:(?:https?|ftp|file|s3)://|www\.|data:[a-z]+/[a-z.+-]+;base64,)[^\s<>\"']+")
_UNSEEN = re.compile(r"(?is)<(script|style)\b[^>]{0,500}>.{0,4000}?</\1>|<!--.{0,4000}?-->|<!doctype[^>]{0,500}>")
_TURN = re.compile(r"<\|im_start\|>\s*(?:system|user|assistant)\b")  # a token and who speaks after it
_AROUND = " \t\r\n"  # what templates put around words
_BLANKS = re.compile(r"[ \t\u00a0]{2,}|\u00a0")


def repair_turns(
    task: str, turns: Sequence[tuple[str, str]], config: CurationConfig
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """The turns with repaired words, and the reasons for which they would have been dropped.

    Made are those of `config.repair_captions`, if nothing is wrong with the words afterwards; else none. Texts longer
    than `config.max_caption_chars` are not repaired.
    """
    made: dict[str, None] = {}
    repaired = []
    for (role, text), kind in zip(turns, kinds_of(task, turns), strict=True):
        for reason, repair in REPAIRS.items():
            if not kind or reason not in config.repair_captions or len(text) > config.max_caption_chars:
                continue
            if fails(words_of_turn((role, text), kind), reason, config):
                text = _repair(text, repair)
                made[reason] = None
        repaired.append((role, text))
    if made and (_places_in(repaired) != _places_in(turns) or judge_words(task, repaired, config) is not None):
        return list(turns), ()
    return repaired, tuple(made)


def _places_in(turns: Sequence[tuple[str, str]]) -> list[int]:
    return [text.count(place) for _, text in turns for place in PLACES]


def _repair(text: str, repair: Callable[[str], str]) -> str:
    """What stands between the places of pictures, repaired; white space around it stays."""
    parts = []
    for part in _PLACES.split(text):
        core = part.strip(_AROUND)
        if core and not _PLACES.fullmatch(part):
            start = part.index(core)
            changed = _BLANKS.sub(" ", repair(core)).strip(_AROUND)
            part = part[:start] + changed + part[start + len(core) :]
        parts.append(part)
    return "".join(parts)


def _encoding(text: str) -> str:
    return ftfy.fix_encoding(text)


def _control_characters(text: str) -> str:
    """A break of no width between words, which some use as a space, becomes one; the others say nothing."""
    return CONTROL.sub("", _ESCAPE_SEQUENCES.sub("", text).replace("\u200b", " "))


def _markup(text: str) -> str:
    """Its text, entities resolved; a tag between two words parts them."""
    return html.unescape(HTML.sub(_in_place_of_tag, _UNSEEN.sub(" ", text)))


def _in_place_of_tag(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith("&") else " "


def _addresses(text: str) -> str:
    return _WHOLE_URL.sub("", text)


def _control_tokens(text: str) -> str:
    return TOKENS.sub("", _TURN.sub("", text))


REPAIRS: Mapping[str, Callable[[str], str]] = {
    "caption_mojibake": _encoding,
    "caption_control_chars": _control_characters,
    "caption_special_tokens": _control_tokens,
    "caption_html": _markup,
    "caption_url": _addresses,
    "caption_pii": without_personal_data,
}
