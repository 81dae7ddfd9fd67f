"""Judges the words of a record: what is empty, broken, not meant for people, or dangerous to train on."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from data_pipelines.curation_config import CurationConfig
from data_pipelines.records import IMAGE, Reject

_GENERATION = re.compile(
    r"(?is)^\s*generate an? image of (?:\{resolution_tag\}\s*,\s*)?(?:the )?content of (?:the )?image is\s*"
)
_EDITING = re.compile(r"(?is)^\s*(?:please )?edit the image according to the instruction:\s*")
_DESCRIBE = re.compile(r"(?i)\b(describe|caption|what (?:is|does|can).{0,20}\b(?:image|picture|photo)\b)")
_INVISIBLE = re.compile(r"[\s\u200b-\u200f\u2028-\u202f\u2060-\u2069\ufeff\u00ad\u180e\u3000\u00a0]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]")
_MOJIBAKE = re.compile(
    "Ã[\u0080-\u00bf\u0152-\u0161\u0178-\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]|â€|Â[\u00a0-\u00bf]|ï»¿|Ð[\u0080-\u00bf]Ñ"
)
_TOKENS = re.compile(
    r"<\|[^|<>\s]{1,60}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_\w+>|<(?:height|width)_\d+>|</?think>"
    r"|<(?:pad|unk|bos|eos|mask|image|img|vision)\s*/?>|\{resolution_tag\}"
)
_HTML = re.compile(
    r"(?i)</?(?:p|div|span|a|b|i|u|em|strong|br|hr|img|ul|ol|li|h[1-6]|table|tr|td|th|script|style|font|html|head|body"
    r"|title|iframe|form|input|center|blockquote|code|pre|sup|sub|meta|link)(?:\s[^<>]{0,500})?/?>"
    r"|<!--|<!doctype|&(?:nbsp|amp|lt|gt|quot|apos|hellip|mdash|ndash|rsquo|lsquo|ldquo|rdquo|#\d{2,6}|#x[0-9a-f]{2,6});"
)
_URL = re.compile(r"(?i)\b(?:https?|ftp|file|s3)://\S|\bwww\.[a-z0-9-]+\.[a-z]{2,}|\bdata:[a-z]+/[a-z.+-]+;base64,")
_MAIL = re.compile(r"(?i)\b[a-z0-9._%+-]{1,64}@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})*\.[a-z]{2,24}\b")
_PHONE = re.compile(
    r"(?:\+\d{1,3}[\s./-]?(?:\(?\d{1,4}\)?[\s./-]?){1,5}\d{2,4})|(?:\(\d{3}\)\s?|\b\d{3}[.-])\d{3}[.-]\d{4}\b"
)
_CARD = re.compile(r"\b\d{4}[ -]?\d{4}[ -]?\d{4}[ -]?\d{1,7}\b")
_HANDLE = re.compile(r"(?:^|\s)@[A-Za-z]\w{2,30}\b")
_ADDRESS = re.compile(
    r"\b\d{1,5} (?:[A-Z][\w'.-]+ ){1,3}(?:Street|St|Lane|Ln|Road|Rd|Avenue|Ave|Boulevard|Blvd|Drive|Dr|Court|Ct|Way)\b"
    r"[^\n]{0,60}\b\d{5}\b"
)
_FILE_NAME = re.compile(
    r"(?i)^\s*(?:[^\n/\\]{1,200}\.(?:jpe?g|png|gif|webp|bmp|tiff?|heic|avif|raw|cr2|nef|psd|svg)"
    r"|(?:img|dsc[nf]?|dscf|pict?|mvi|gopr|pxl|wp|vid|screenshot|scan|photo|image|p)[-_ ]?\d{3,}[-_\d ]*"
    r"|(?:untitled|unbenannt|new image|image|photo|picture|scan|copy of [^\n]{1,60})[-_ ]?\d*"
    r"(?:\s*\((?:copy|\d+)\))*)\s*$"
)
_FILE_NAME_WORDS = re.compile(r"(?i)^\s*(?:an? )?(?:image|photo|picture|scan)\s*$")  # plain words, not a file's name
_BOILERPLATE = re.compile(
    r"(?i)\b(?:image may contain|no (?:photo )?description available|may be an image of"
    r"|stock (?:photo|image|vector)s? (?:of|by)|click (?:here )?to (?:enlarge|view|zoom|see)|all rights reserved"
    r"|this (?:image|photo|file) (?:is|was) (?:licensed|uploaded)"
    r"|image not (?:found|available)|loading image|advertisement$)"
)
_LOREM = re.compile(r"(?i)\blorem ipsum\b")
_INJECTION = re.compile(
    r"(?i)\b(?:ignore|disregard|forget) (?:all |any |the |your )*(?:previous|prior|above|earlier) "
    r"(?:instructions|prompts|rules|messages)"
)


@dataclass(frozen=True, kw_only=True)
class Words:
    """One text of a record and how strictly it is read."""

    text: str
    kind: str  # "caption": describes a picture; "answer": replies to a question; "free": text without a picture


def caption_of(task: str, turns: Sequence[tuple[str, str]]) -> str:
    """The text that says most about a sample: its caption, prompt, instruction or first answer."""
    wanted = "human" if task in ("generation", "editing") else "gpt"
    text = next((text for role, text in turns if role == wanted), "")
    return _without_template(text) if wanted == "human" else text


def _without_template(prompt: str) -> str:
    """The words that a published prompt template was filled with; the one for edits ends with a full stop."""
    text = prompt.replace(IMAGE, "")
    if _EDITING.match(text):
        return _EDITING.sub("", text).removesuffix("\n").removesuffix(".")
    return _GENERATION.sub("", text).removesuffix("\n")


def words_of(task: str, turns: Sequence[tuple[str, str]]) -> Iterator[Words]:
    """The texts of a record that are judged."""
    if task in ("generation", "editing"):
        for role, text in turns:
            if role == "human":
                yield Words(text=_without_template(text), kind="caption")
        return
    for (_, question), (_, answer) in zip(turns[::2], turns[1::2], strict=True):
        describing = task == "understanding" and _DESCRIBE.search(question) is not None
        yield Words(text=question.replace(IMAGE, ""), kind="free" if task == "text" else "question")
        yield Words(text=answer, kind="free" if task == "text" else "caption" if describing else "answer")


def judge_words(task: str, turns: Sequence[tuple[str, str]], config: CurationConfig) -> Reject | None:
    """The first thing that is wrong with the texts of a record."""
    for words in words_of(task, turns):
        problem = judge_text(words, config)
        if problem is not None:
            return problem
    return None


def judge_text(words: Words, config: CurationConfig) -> Reject | None:
    """The first check that a text fails, in the order of `_CHECKS`; a question may be the picture alone."""
    if words.kind == "question" and not _INVISIBLE.sub("", words.text):
        return None
    for reason, kinds, check in _CHECKS:
        if words.kind in kinds:
            detail = check(words.text, config)
            if detail:
                return Reject(reason=reason, detail=f"{detail}: {words.text[:80]!r}")
    return None


def _empty(text: str, config: CurationConfig) -> str:
    return "" if _INVISIBLE.sub("", text) else "no words"


def _too_long(text: str, config: CurationConfig) -> str:
    return f"{len(text)} characters" if len(text) > config.max_caption_chars else ""


def _too_short(text: str, config: CurationConfig) -> str:
    letters = sum(1 for character in text if unicodedata.category(character)[0] in "LNMS")
    wide = any("\u2e80" <= character <= "\uffef" for character in text)  # one sign of Chinese can be a word
    return f"{letters} letters" if letters < config.min_caption_chars and not wide else ""


def _personal(text: str, config: CurationConfig) -> str:
    if not config.drop_personal_data:
        return ""
    for name, pattern in (("a mail address", _MAIL), ("a telephone number", _PHONE), ("an account name", _HANDLE)):
        if pattern.search(text):
            return name
    if _ADDRESS.search(text):
        return "a postal address"
    return "a card number" if any(_luhn(match[0]) for match in _CARD.finditer(text)) else ""


def _luhn(digits: str) -> bool:
    """Checksum of payment card numbers."""
    numbers = [int(digit) for digit in digits if digit.isdigit()]
    doubled = [2 * number if place % 2 else number for place, number in enumerate(reversed(numbers))]
    return 13 <= len(numbers) <= 19 and sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0


def _file_name(text: str, config: CurationConfig) -> str:
    return "a file's name" if _FILE_NAME.match(text) and not _FILE_NAME_WORDS.match(text) else ""


def _gibberish(text: str, config: CurationConfig) -> str:
    if _LOREM.search(text):
        return "filler text"
    words = re.findall(r"[a-z]+", text.lower())
    if len(words) >= 20 and len(set(words)) <= len(words) // 8:
        return "the same few words over and over"
    long_words = [word for word in words if len(word) > 3]
    unspoken = [word for word in long_words if not re.search(r"[aeiouy]", word) or re.search(r"[^aeiouy]{5}", word)]
    return "words without vowels" if len(long_words) >= 3 and 2 * len(unspoken) > len(long_words) else ""


def _matches(pattern: re.Pattern[str], name: str) -> Callable[[str, CurationConfig], str]:
    return lambda text, config: name if pattern.search(text) else ""


ALL = frozenset({"caption", "answer", "question", "free"})
ABOUT_PICTURES = frozenset({"caption", "answer", "question"})
SPOKEN = frozenset({"caption", "answer"})
CAPTION = frozenset({"caption"})
_CHECKS: tuple[tuple[str, frozenset[str], Callable[[str, CurationConfig], str]], ...] = (
    ("caption_empty", ALL, _empty),
    ("caption_mojibake", ABOUT_PICTURES, _matches(_MOJIBAKE, "UTF-8 that was read as another encoding")),
    ("caption_bad_encoding", ALL, _matches(re.compile("\ufffd"), "bytes that are not UTF-8")),
    ("caption_control_chars", ALL, _matches(_CONTROL, "control characters")),
    ("caption_too_long", SPOKEN, _too_long),
    ("caption_special_tokens", ALL, _matches(_TOKENS, "a control token")),
    ("caption_html", ABOUT_PICTURES, _matches(_HTML, "markup")),
    ("caption_url", SPOKEN, _matches(_URL, "an address")),
    ("caption_pii", SPOKEN, _personal),
    ("caption_filename", SPOKEN, _file_name),
    ("caption_too_short", CAPTION, _too_short),
    ("caption_boilerplate", CAPTION, _matches(_BOILERPLATE, "words that stand under many pictures")),
    ("caption_prompt_injection", SPOKEN, _matches(_INJECTION, "an order to whoever reads it")),
    ("caption_gibberish", CAPTION, _gibberish),
)
