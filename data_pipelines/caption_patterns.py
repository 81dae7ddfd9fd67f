"""What texts of records are searched for: markup, addresses, control tokens, words that say nothing."""

import re
from collections.abc import Iterator

GENERATION = re.compile(
    r"(?is)^\s*generate an? image of (?:\{resolution_tag\}\s*,\s*)?(?:the )?content of (?:the )?image is\s*"
)
EDITING = re.compile(r"(?is)^\s*(?:please )?edit the image according to the instruction:\s*")
DESCRIBE = re.compile(r"(?i)\b(describe|caption|what (?:is|does|can).{0,20}\b(?:image|picture|photo)\b)")
INVISIBLE = re.compile(r"[\s\u200b-\u200f\u2028-\u202f\u2060-\u2069\ufeff\u00ad\u180e\u3000\u00a0]+")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]")
MOJIBAKE = re.compile(
    "Ã[\u0080-\u00bf\u0152-\u0161\u0178-\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]|â€|Â[\u00a0-\u00bf]|ï»¿|Ð[\u0080-\u00bf]Ñ"
)
TOKENS = re.compile(
    r"<\|[^|<>\s]{1,60}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_\w+>|<(?:height|width)_\d+>|</?think>"
    r"|<(?:pad|unk|bos|eos|mask|image|img|vision)\s*/?>|\{resolution_tag\}"
)
HTML = re.compile(
    r"(?i)</?(?:p|div|span|a|b|i|u|em|strong|br|hr|img|ul|ol|li|h[1-6]|table|tr|td|th|script|style|font|html|head|body"
    r"|title|iframe|form|input|center|blockquote|code|pre|sup|sub|meta|link)(?:\s[^<>]{0,500})?/?>"
    r"|<!--|<!doctype|&(?:nbsp|amp|lt|gt|quot|apos|hellip|mdash|ndash|rsquo|lsquo|ldquo|rdquo|#\d{2,6}|#x[0-9a-f]{2,6});"
)
URL = re.compile(r"(?i)\b(?:https?|ftp|file|s3)://\S|\bwww\.[a-z0-9-]+\.[a-z]{2,}|\bdata:[a-z]+/[a-z.+-]+;base64,")
MAIL = re.compile(r"(?i)\b[a-z0-9._%+-]{1,64}@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})*\.[a-z]{2,24}\b")
PHONE = re.compile(
    r"(?:\+\d{1,3}[\s./-]?(?:\(?\d{1,4}\)?[\s./-]?){1,5}\d{2,4})|(?:\(\d{3}\)\s?|\b\d{3}[.-])\d{3}[.-]\d{4}\b"
)
CARD = re.compile(r"\b\d{4}[ -]?\d{4}[ -]?\d{4}[ -]?\d{1,7}\b")
HANDLE = re.compile(r"(?:^|\s)@[A-Za-z]\w{2,30}\b")
ADDRESS = re.compile(
    r"\b\d{1,5} (?:[A-Z][\w'.-]+ ){1,3}(?:Street|St|Lane|Ln|Road|Rd|Avenue|Ave|Boulevard|Blvd|Drive|Dr|Court|Ct|Way)\b"
    r"[^\n]{0,60}\b\d{5}\b"
)
FILE_NAME = re.compile(
    r"(?i)^\s*(?:[^\n/\\]{1,200}\.(?:jpe?g|png|gif|webp|bmp|tiff?|heic|avif|raw|cr2|nef|psd|svg)"
    r"|(?:img|dsc[nf]?|dscf|pict?|mvi|gopr|pxl|wp|vid|screenshot|scan|photo|image|p)[-_ ]?\d{3,}[-_\d ]*"
    r"|(?:untitled|unbenannt|new image|image|photo|picture|scan|copy of [^\n]{1,60})[-_ ]?\d*"
    r"(?:\s*\((?:copy|\d+)\))*)\s*$"
)
FILE_NAME_WORDS = re.compile(r"(?i)^\s*(?:an? )?(?:image|photo|picture|scan)\s*$")  # plain words, not a file's name
BOILERPLATE = re.compile(
    r"(?i)\b(?:image may contain|no (?:photo )?description available|may be an image of"
    r"|stock (?:photo|image|vector)s? (?:of|by)|click (?:here )?to (?:enlarge|view|zoom|see)|all rights reserved"
    r"|this (?:image|photo|file) (?:is|was) (?:licensed|uploaded)"
    r"|image not (?:found|available)|loading image|advertisement$)"
)
LOREM = re.compile(r"(?i)\blorem ipsum\b")
INJECTION = re.compile(
    r"(?i)\b(?:ignore|disregard|forget) (?:all |any |the |your )*(?:previous|prior|above|earlier) "
    r"(?:instructions|prompts|rules|messages)"
)


def card_numbers(text: str) -> Iterator[str]:
    """Digits that pass the checksum of payment cards."""
    return (match[0] for match in CARD.finditer(text) if _luhn(match[0]))


def _luhn(digits: str) -> bool:
    """Checksum of payment card numbers."""
    numbers = [int(digit) for digit in digits if digit.isdigit()]
    doubled = [2 * number if place % 2 else number for place, number in enumerate(reversed(numbers))]
    return 13 <= len(numbers) <= 19 and sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0
