"""Finds personal data in texts (addresses, numbers, account names) and replaces it by the name of its kind."""

import re
from collections.abc import Callable
from dataclasses import dataclass

_DIGITS = frozenset("0123456789")
_AT = frozenset("@[({")
PERSONAL_CHARACTERS = _DIGITS | _AT  # a text without any of these holds no personal data

_MAIL = re.compile(
    r"(?i)\b[a-z0-9._%+-]{1,64}(?:@|\s?[\[({]\s?(?:at|@)\s?[\])}]\s?)[a-z0-9-]{1,63}"
    r"(?:(?:\.|\s?[\[({]\s?(?:dot|\.)\s?[\])}]\s?)[a-z0-9-]{1,63}){0,5}?(?:\.|\s?[\[({]\s?(?:dot|\.)\s?[\])}]\s?)[a-z]{2,24}\b"
)
_PHONE = re.compile(
    r"(?:\+\d{1,3}[\s./-]?(?:\(?\d{1,4}\)?[\s./-]?){1,5}\d{2,4})|(?:\(\d{3}\)\s?|\b\d{3}[.-])\d{3}[.-]\d{4}\b"
    r"|(?i:\b(?:tel|telephone|telefon|telefono|téléphone|phone|fax|mobile|cell|whatsapp|call)\b[.:]?\s?"
    r"(?:(?:us|now|me|at|no|number)\b[.:]?\s?){0,3}\(?\d(?:[\s()./-]{0,2}\d){6,13}\b)"
)
_ADDRESS = re.compile(
    r"\b\d{1,5} (?:[A-Z][\w'.-]+ ){1,3}(?:Street|St|Lane|Ln|Road|Rd|Avenue|Ave|Boulevard|Blvd|Drive|Dr|Court|Ct|Way)\b"
    r"[^\n]{0,60}\b\d{5}\b"
)
_CARD = re.compile(r"\b\d{4}[ -]?\d{4}[ -]?\d{4}[ -]?\d{1,7}\b")
_BANK_ACCOUNT = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_SOCIAL_SECURITY = re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_ACCOUNT = re.compile(r"(?<!\S)@[A-Za-z]\w{2,30}\b")


@dataclass(frozen=True, kw_only=True)
class _Kind:
    name: str
    pattern: re.Pattern[str]
    characters: frozenset[str] = _DIGITS  # every match has at least one of these
    is_valid: Callable[[str], bool] = lambda _match: True  # a check beyond the pattern, such as a checksum

    def find(self, text: str) -> list[str]:
        if self.characters.isdisjoint(text):
            return []
        return [match[0] for match in self.pattern.finditer(text) if self.is_valid(match[0])]

    def mask(self, match: re.Match[str]) -> str:
        return f"[{self.name}]" if self.is_valid(match[0]) else match[0]


def _has_luhn_checksum(text: str) -> bool:
    """Checksum of payment card numbers (ISO/IEC 7812-1, annex B)."""
    numbers = [int(digit) for digit in text if digit.isdigit()]
    doubled = [2 * number if index % 2 else number for index, number in enumerate(reversed(numbers))]
    return 13 <= len(numbers) <= 19 and sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0


def _has_mod_97_checksum(text: str) -> bool:
    """Checksum of international bank account numbers (ISO 13616, after ISO 7064 MOD 97-10)."""
    code = text.replace(" ", "")
    return 15 <= len(code) <= 34 and int("".join(str(int(char, 36)) for char in code[4:] + code[:4])) % 97 == 1


_KINDS = (
    _Kind(name="card number", pattern=_CARD, is_valid=_has_luhn_checksum),
    _Kind(name="bank account", pattern=_BANK_ACCOUNT, is_valid=_has_mod_97_checksum),
    _Kind(name="mail address", pattern=_MAIL, characters=_AT),
    _Kind(name="postal address", pattern=_ADDRESS),
    _Kind(name="social security number", pattern=_SOCIAL_SECURITY),
    _Kind(name="telephone number", pattern=_PHONE),
    _Kind(name="account name", pattern=_ACCOUNT, characters=_AT),
)


def personal_data_kinds(text: str) -> list[str]:
    """The names of the kinds of personal data in a text."""
    return [kind.name for kind in _KINDS if kind.find(text)]


def mask_personal_data(text: str) -> str:
    """The text with each piece of personal data replaced by the name of its kind in brackets."""
    for kind in _KINDS:
        text = kind.pattern.sub(kind.mask, text)
    return text
