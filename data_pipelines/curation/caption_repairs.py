"""Repairs texts that curation would otherwise drop a record for, where the intended text is beyond doubt.

Only texts that fail a check are changed. A record that would be dropped after the repair too stays as it was.
"""

import html
import re
from collections.abc import Callable, Mapping, Sequence

from data_pipelines.captions.encodings import fix_wrong_encoding
from data_pipelines.captions.patterns import CONTROL, CONTROL_TOKENS, HTML
from data_pipelines.captions.personal_data import mask_personal_data
from data_pipelines.curation.caption_rules import fails_check, judge_texts, turn_kinds, turn_text
from data_pipelines.curation.config import CurationConfig
from data_pipelines.datasets.records import IMAGE

PLACEHOLDERS = (IMAGE, "{resolution_tag}")  # never repaired, and a repair may neither add nor remove one
_PLACEHOLDERS = re.compile(f"({'|'.join(map(re.escape, PLACEHOLDERS))})")
_ESCAPE_SEQUENCES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # colours of terminals
_WHOLE_URL = re.compile(r"(?i)\b(?:(?:https?|ftp|file|s3)://|www\.|data:[a-z]+/[a-z.+-]+;base64,)[^\s<>\"']+")
_HIDDEN = re.compile(r"(?is)<(script|style)\b[^>]{0,500}>.{0,4000}?</\1>|<!--.{0,4000}?-->|<!doctype[^>]{0,500}>")
_TURN = re.compile(r"<\|im_start\|>\s*(?:system|user|assistant)\b")  # the token and the role after it
_WHITESPACE = " \t\r\n"  # that templates put around texts
_BLANKS = re.compile(r"[ \t\u00a0]{2,}|\u00a0")


def repair_turns(
    task: str, turns: Sequence[tuple[str, str]], config: CurationConfig
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """The turns with repaired texts, and the reasons for which they would have been dropped.

    Only the repairs in `config.repair_captions` are made, and all or none of them: if the record would be dropped
    afterwards too, the turns come back unchanged, without reasons. Texts longer than `config.max_caption_chars` are not
    repaired.
    """
    reasons: dict[str, None] = {}  # an ordered set
    repaired = []
    for (role, text), kind in zip(turns, turn_kinds(task, turns), strict=True):
        for reason, repair in REPAIRS.items():
            if not kind or reason not in config.repair_captions or len(text) > config.max_caption_chars:
                continue
            if fails_check(turn_text((role, text), kind), reason, config):
                text = _repair(text, repair)
                reasons[reason] = None
        repaired.append((role, text))
    has_same_placeholders = _count_placeholders(repaired) == _count_placeholders(turns)
    if reasons and (not has_same_placeholders or judge_texts(task, repaired, config) is not None):
        return list(turns), ()
    return repaired, tuple(reasons)


def _count_placeholders(turns: Sequence[tuple[str, str]]) -> list[int]:
    return [text.count(placeholder) for _, text in turns for placeholder in PLACEHOLDERS]


def _repair(text: str, repair: Callable[[str], str]) -> str:
    """The text with the parts between placeholders repaired; white space around each part stays."""
    parts = []
    for part in _PLACEHOLDERS.split(text):
        core = part.strip(_WHITESPACE)
        if core and not _PLACEHOLDERS.fullmatch(part):
            start = part.index(core)
            changed = _BLANKS.sub(" ", repair(core)).strip(_WHITESPACE)
            part = part[:start] + changed + part[start + len(core) :]
        parts.append(part)
    return "".join(parts)


def _remove_control_characters(text: str) -> str:
    """Removes control characters; a zero-width space, which some use between words, becomes a space."""
    return CONTROL.sub("", _ESCAPE_SEQUENCES.sub("", text).replace("\u200b", " "))


def _remove_markup(text: str) -> str:
    """Resolves entities and replaces each tag by a space, so that it separates two words.

    Entities may be written twice over ("&amp;eacute;"), or spell out a letter in the wrong encoding ("&Atilde;&copy;").
    """
    text = HTML.sub(_tag_to_space, _HIDDEN.sub(" ", text))
    while (resolved := html.unescape(text)) != text:
        text = resolved
    return fix_wrong_encoding(text)


def _tag_to_space(match: re.Match[str]) -> str:
    return match[0] if match[0].startswith("&") else " "


def _remove_urls(text: str) -> str:
    return _WHOLE_URL.sub("", text)


def _remove_control_tokens(text: str) -> str:
    return CONTROL_TOKENS.sub("", _TURN.sub("", text))


REPAIRS: Mapping[str, Callable[[str], str]] = {
    "caption_mojibake": fix_wrong_encoding,
    "caption_control_chars": _remove_control_characters,
    "caption_special_tokens": _remove_control_tokens,
    "caption_html": _remove_markup,
    "caption_url": _remove_urls,
    "caption_pii": mask_personal_data,
}
