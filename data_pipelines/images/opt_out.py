"""Reads from an image's metadata whether its owner reserves it from training.

Three kinds of reservation are known: the data-mining property of IPTC and PLUS in XMP, the words "noai" and "noimageai"
in the text fields of EXIF, XMP, IPTC and PNG, and signed training-mining assertions of C2PA and CAWG.
Signatures are not checked: a false reservation costs an image, a missed one breaks a promise.
"""

import json
import re
from collections.abc import Iterator

import cbor2
from PIL import Image

# Source: PLUS licence data format vocabulary, DMI-PROHIBITED, DMI-PROHIBITED-AIMLTRAINING and others that begin so.
_PROHIBITED = re.compile(rb"DMI-PROHIBITED[A-Z-]{0,60}")
_WORD = re.compile(rb"(?i)(?<![\w+/=.-])no(?:image)?ai(?![\w+/=.-])")
# Source: C2PA specification 1.4, training and data mining; CAWG training and data mining assertion 1.1.
_LABEL_END = b".training-mining"
_ASSERTION = re.compile(rb"(?:c2pa|cawg)\.training-mining(?:\.v\d{1,2})?(?:__\d{1,4})?\0")
_CONTENT = re.compile(rb"(?s)(.{4})(cbor|json)")
_RESERVED_USES = ("notAllowed", "constrained")  # a constraint cannot be checked by machine
_TRAINING = re.compile(r"\.(?:ai_training|ai_generative_training|data_mining)$")
_TEXT_TAGS = (0x010E, 0x013B, 0x8298, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F)  # description, artist, copyright, XP*
_EXIF_FOLDER, _USER_COMMENT = 0x8769, 0x9286
_XMP_TAG, _IPTC_TAG = 700, 33723  # of TIFF
_LABEL_REACH = 512  # bytes between an assertion's label and its content
_MAX_ASSERTION_BYTES = 16 << 10
_MAX_FIELDS = 64  # text fields that are read, and assertions
_MAX_FIELD_BYTES = 4 << 20


def opt_out(image: Image.Image, data: bytes) -> str:
    """The reservation from training in a loaded image's metadata, as a sentence for people; "" if there is none.

    `data`: the file. The whole file is searched only for words so long that no pixels spell them by chance.
    """
    found = _PROHIBITED.search(data) if b"DMI-PROHIBITED" in data else None
    if found is None and _LABEL_END in data:
        use = next(filter(None, map(_reserved_use, _assertions(_joined_boxes(image, data)))), "")
        if use:
            return use
    for text in _text_fields(image):
        found = found or _reservation(text)
    return f"its metadata says {found[0].decode()}" if found else ""


def _reservation(text: bytes) -> re.Match[bytes] | None:
    """The words that reserve an image, also where the text is UTF-16."""
    narrow = text.replace(b"\0", b"")
    if b"ai" not in narrow.lower() and b"DMI" not in text:  # far quicker than the patterns
        return None
    return _PROHIBITED.search(text) or _WORD.search(text) or _WORD.search(narrow)


def _text_fields(image: Image.Image) -> Iterator[bytes]:
    """The text fields of the metadata."""
    for _, value in zip(range(_MAX_FIELDS), image.info.items(), strict=False):
        yield from _texts(value[1] if value[0] not in ("exif", "icc_profile") else None)
    exif = image.getexif()
    if not exif:
        return
    for tag in (*_TEXT_TAGS, _XMP_TAG, _IPTC_TAG):
        yield from _texts(exif.get(tag))
    if _EXIF_FOLDER in exif:
        yield from _texts(exif.get_ifd(_EXIF_FOLDER).get(_USER_COMMENT))


def _texts(value: object) -> Iterator[bytes]:
    if isinstance(value, str):
        yield value[:_MAX_FIELD_BYTES].encode("utf-8", "replace")
    elif isinstance(value, bytes):
        yield value[:_MAX_FIELD_BYTES]
    elif isinstance(value, dict):  # Photoshop's resources by number
        for part in list(value.values())[:_MAX_FIELDS]:
            yield from _texts(part if not isinstance(part, dict) else None)
    elif isinstance(value, tuple):
        for part in value[:_MAX_FIELDS]:
            yield from _texts(part if isinstance(part, str | bytes) else None)


def _joined_boxes(image: Image.Image, data: bytes) -> bytes:
    """The JUMBF boxes of a JPEG, each joined from its segments of at most 64 KB; of another format, the whole file.

    Source: ISO/IEC 19566-5, annex D: "JP", number of the box, number of the segment, then the box, whose header every
    segment repeats.
    """
    segments = getattr(image, "applist", None)  # only JPEG has it
    if not segments:
        return data
    boxes: dict[bytes, bytearray] = {}
    for name, part in segments:
        if name == "APP11" and part[:2] == b"JP" and len(part) > 16:
            header = 8 + (16 if part[8:12] == b"\0\0\0\1" else 8)
            box = boxes.setdefault(part[2:4], bytearray())
            box += part[header:] if box else part[8:]
    return b"".join(boxes.values())


def _assertions(data: bytes) -> Iterator[object]:
    """The decoded contents of training-mining assertions, as bytes where they cannot be decoded."""
    for _, label in zip(range(_MAX_FIELDS), _ASSERTION.finditer(data), strict=False):
        content = _CONTENT.search(data, label.end(), label.end() + _LABEL_REACH)
        if content is None:
            continue
        size = min(int.from_bytes(content[1], "big") - 8, _MAX_ASSERTION_BYTES)
        payload = data[content.end() : content.end() + max(size, 0)]
        try:
            yield cbor2.loads(payload) if content[2] == b"cbor" else json.loads(payload)
        except (cbor2.CBORDecodeError, ValueError, RecursionError, OverflowError, MemoryError):
            yield payload


def _reserved_use(assertion: object) -> str:
    """A sentence about the first entry that reserves the image from training, "" if none does."""
    if isinstance(assertion, bytes):
        return "a damaged training-mining assertion says notAllowed" if b"notAllowed" in assertion else ""
    entries = assertion.get("entries") if isinstance(assertion, dict) else None
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        use = entry.get("use") if isinstance(entry, dict) else None
        if isinstance(name, str) and _TRAINING.search(name) and use in _RESERVED_USES:
            return f"its training-mining assertion says {name[:60]}: {use}"
    return ""
