"""Images whose own metadata reserves them from training are recognised, in every format that can hold a reservation."""

import io
import json
import struct
import zlib
from dataclasses import replace

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from data_pipelines.curation.config import CurationConfig, decode_limits
from data_pipelines.curation.image_rules import judge_image
from data_pipelines.datasets.records import Reject
from data_pipelines.images.facts import ImageFacts, measure_image

CONFIG = CurationConfig(anchors=((64, 64),), min_sharpness=0.0)
PICTURE = Image.linear_gradient("L").resize((96, 80)).convert("RGB")
C2PA_BOX = bytes.fromhex("d8fec3d6 1b0e 483c 9297 5828877ec481")


def verdict(data: bytes, config: CurationConfig = CONFIG) -> str:
    facts = measure_image(data, decode_limits(config))
    assert isinstance(facts, ImageFacts), facts
    found = judge_image(facts, config)
    return found.reason if found else "fine"


def encoded(form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, form, **options)
    return buffer.getvalue()


def xmp(inside: str) -> bytes:
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>'
        f"<rdf:Description {inside}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def mining(value: str) -> bytes:
    return xmp(f'plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-{value}">')


KEYWORD = xmp("><dc:subject><rdf:Bag><rdf:li>harbour</rdf:li><rdf:li>NoAI</rdf:li></rdf:Bag></dc:subject>")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (mining("PROHIBITED"), "opted_out"),
        (mining("PROHIBITED-AIMLTRAINING"), "opted_out"),
        (mining("PROHIBITED-EXCEPTSEARCHENGINEINDEXING"), "opted_out"),
        (mining("ALLOWED"), "fine"),
        (mining("UNSPECIFIED"), "fine"),
        (KEYWORD, "opted_out"),
        (xmp("><dc:creator>Noainoma Hanoai, no-ai.example</dc:creator>"), "fine"),
    ],
)
def test_xmp_reserves_an_image(form: str, packet: bytes, expected: str) -> None:
    if form == "TIFF":
        info = {700: packet}
        data = encoded(form, tiffinfo=info)
    elif form == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", packet.decode(), zip=True)
        data = encoded(form, pnginfo=text)
    else:
        data = encoded(form, xmp=packet)
    assert verdict(data) == expected
    assert verdict(data, replace(CONFIG, respect_opt_out=False)) == "fine"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("tag", "value"),
    [(0x010E, "a harbour, noai"), (0x8298, "me; noimageai"), (0x9C9E, "sea;noai\0".encode("utf-16-le"))],
)
def test_words_in_exif_reserve_an_image(form: str, tag: int, value: object) -> None:
    exif = Image.Exif()
    exif[tag] = value
    assert verdict(encoded(form, exif=exif)) == "opted_out"


def test_a_user_comment_reserves_an_image() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0noai, noimageai"
    assert verdict(encoded("JPEG", exif=exif)) == "opted_out"


def test_keywords_of_iptc_reserve_an_image() -> None:
    word = b"\x1c\x02\x19" + struct.pack(">H", 4) + b"noai"
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(word)) + word + bytes(len(word) % 2)
    segment = b"Photoshop 3.0\0" + resource
    assert verdict(with_segments([(0xED, segment)])) == "opted_out"


def test_pixels_and_profiles_never_reserve_an_image() -> None:
    icc = b" noai " * 20
    assert verdict(encoded("JPEG", icc_profile=icc, quality=90)) == "fine"


# ---------------------------------------------------------------- signed assertions


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def assertion(label: str, entries: object, *, as_json: bool = False, padding: int = 0) -> bytes:
    """A JUMBF store with one assertion, `padding` bytes of other content before it."""
    value = {"entries": entries}
    content = box(b"json", json.dumps(value).encode()) if as_json else box(b"cbor", cbor2.dumps(value))
    description = box(b"jumd", (b"json" if as_json else b"cbor") + bytes(12) + b"\x03" + label.encode() + b"\0")
    other = box(b"jumb", box(b"jumd", b"cbor" + bytes(12) + b"\x03c2pa.actions\0") + box(b"cbor", bytes(padding)))
    return box(b"jumb", box(b"jumd", b"c2pa" + bytes(12) + b"\x03c2pa\0") + other + box(b"jumb", description + content))


def with_segments(segments: list[tuple[int, bytes]]) -> bytes:
    jpeg = encoded("JPEG")
    added = b"".join(bytes((0xFF, marker)) + struct.pack(">H", len(part) + 2) + part for marker, part in segments)
    return jpeg[:2] + added + jpeg[2:]


def in_jpeg(store: bytes, segment_bytes: int = 60_000) -> bytes:
    header, content = store[:8], store[8:]
    parts = [content[at : at + segment_bytes] for at in range(0, len(content), segment_bytes)]
    return with_segments(
        [(0xEB, b"JP\0\1" + struct.pack(">I", number) + header + part) for number, part in enumerate(parts, 1)]
    )


def in_png(store: bytes) -> bytes:
    png = encoded("PNG")
    chunk = struct.pack(">I", len(store)) + b"caBX" + store + struct.pack(">I", zlib.crc32(b"caBX" + store))
    return png[:33] + chunk + png[33:]


def in_webp(store: bytes) -> bytes:
    webp = encoded("WEBP") + b"C2PA" + struct.pack("<I", len(store)) + store + bytes(len(store) % 2)
    return webp[:4] + struct.pack("<I", len(webp) - 8) + webp[8:]


def in_avif(store: bytes) -> bytes:
    return encoded("AVIF") + box(b"uuid", C2PA_BOX + store)


FORBIDDEN = {"c2pa.ai_training": {"use": "notAllowed"}}


@pytest.mark.parametrize("place", [in_jpeg, in_png, in_webp, in_avif])
@pytest.mark.parametrize(
    ("label", "entries", "expected"),
    [
        ("c2pa.training-mining", FORBIDDEN, "opted_out"),
        ("c2pa.training-mining.v2__1", {"c2pa.ai_generative_training": {"use": "constrained"}}, "opted_out"),
        ("cawg.training-mining", {"cawg.data_mining": {"use": "notAllowed"}}, "opted_out"),
        ("cawg.training-mining", {"cawg.ai_training": {"use": "allowed"}}, "fine"),
        ("c2pa.training-mining", {"c2pa.ai_inference": {"use": "notAllowed"}}, "fine"),
        ("c2pa.training-mining", ["c2pa.ai_training", 7], "fine"),
        ("c2pa.actions", FORBIDDEN, "fine"),
    ],
)
def test_signed_assertions_reserve_an_image(place: object, label: str, entries: object, expected: str) -> None:
    for as_json in (False, True):
        assert verdict(place(assertion(label, entries, as_json=as_json))) == expected  # type: ignore[operator] # one of ours


@pytest.mark.parametrize("segment_bytes", [60_000, 997])
def test_assertions_are_read_across_the_segments_of_a_jpeg(segment_bytes: int) -> None:
    store = assertion("c2pa.training-mining", FORBIDDEN, padding=70_000)
    for cut in range(5):
        assert verdict(in_jpeg(store, segment_bytes - 11 * cut)) == "opted_out"


def test_a_damaged_assertion_counts_if_it_forbids_something() -> None:
    store = assertion("c2pa.training-mining", FORBIDDEN)
    assert verdict(in_png(store.replace(b"\xa1\x67entries", b"\xbf\x9fentries"))) == "opted_out"
    assert verdict(in_png(store[:-30])) == "fine"


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 2**32 - 1))
def test_no_assertion_however_broken_stops_the_ingest(content: bytes, size: int) -> None:
    for kind in (b"cbor", b"json"):
        broken = b"c2pa.training-mining\0" + struct.pack(">I", size) + kind + content
        for data in (in_png(broken), in_jpeg(bytes(8) + broken)):
            assert isinstance(measure_image(data, decode_limits(CONFIG)), ImageFacts | Reject)


@pytest.mark.parametrize("content", [b"\x81" * 40_000, b"\xbf" * 40_000, b"\x9b" + b"\xff" * 8, b"\xd8\x1c" * 9_000])
def test_nested_and_endless_assertions_are_refused_quickly(content: bytes) -> None:
    store = b"c2pa.training-mining\0" + box(b"cbor", content)
    assert verdict(in_png(store * 20)) == "fine"
