"""Texts read in the wrong encoding are found, and mended where nothing is lost; sound texts of any language are not."""

# ruff: noqa: RUF001  # letters of many scripts are meant

import gettext
import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.captions.encodings import fix_wrong_encoding, has_wrong_encoding

FRENCH = "Un café crème à la fenêtre, «\u00a0bien chaud\u00a0»"
GERMAN = "Ein Bär läuft über die Straße"
SPANISH = "¿Dónde está el niño? Mañana en España"
POLISH = "Żółty kwiat w ogródku, źdźbło trawy"
CZECH = "Žlutý kůň na louce"
TURKISH = "Kırmızı çiçek bahçede, güneşli gün"
VIETNAMESE = "Một con chó màu đỏ trên đường phố"
RUSSIAN = "Красный автомобиль на улице"
GREEK = "Κόκκινο λουλούδι στον κήπο"
HEBREW = "כלב אדום ברחוב"
ARABIC = "صورة لوردة حمراء"
HINDI = "लाल फूल की तस्वीर"
THAI = "ดอกไม้สีแดง"
JAPANESE = "赤い花の写真"
CHINESE = "一只红色的猫坐在椅子上"
KOREAN = "빨간 꽃 사진"
QUOTES = "It\u2019s a \u201csmall\u201d dog \u2013 very happy"
EMOJI = "a happy dog 😀 on the beach"
ONE_LETTER = "a small café on a corner"
SOUND = (
    FRENCH, GERMAN, SPANISH, POLISH, CZECH, TURKISH, VIETNAMESE, RUSSIAN, GREEK, HEBREW, ARABIC, HINDI, THAI, JAPANESE,
    CHINESE, KOREAN, QUOTES, EMOJI, ONE_LETTER,
    "Åse naïve façade São Paulo Ângela", "SÃO PAULO, A CIDADE", "À la carte", "Ærø, Ørsted og Ås", "Þórr á Íslandi",
    "ÉCOLE DE DANSE – ÉLÈVES", "Œuvres d’art, cœur et sœur", "l’été à l’île d’Oléron", "È vietato. Perché? Così è.",
    "»Übung« macht den Meister, »Ärger« und »Öl« nicht", "„€“ steht auf dem Schild", "‚Äpfel‘ und „Öl“",
    "GRÖSSE 42½ ±2 mm", "Größe: 3×4 m²",
    "«Привет» – сказал он…", "№ 5 на углу, 100 ₽", "Їжак під ґанком", "Ђорђе и Љиљана", "Łódź i Kraków, 20 zł",
    "Ő űrhajó, árvíztűrő tükörfúrógép", "ĉiuj ŝatas ĝin, ĵaŭdo", "Għall-Malta, ħobż", "Đà Nẵng, ngày mùng 1",
    "√2 ≈ 1.41 and π ≈ 3.14", "∀x ∃y: x ≤ y ∧ y ≠ ∞", "α + β = γ, Ω = 5 kΩ", "½ cup, ¼ tsp, 180 °C / 350 °F",
    "∫ f(x) dx ± ε", "£5 – £10, or €20 (¥3,000)", "100 % ± 5 µm", "§ 5 Abs. 2 ©2020 Müller® ™", "5′ 10″ tall",
    "A → B ⇒ C ↔ D", "┌──┐ a box", "¯\\_(ツ)_/¯", "(°ロ°) ʕ•ᴥ•ʔ", "★★★☆☆ · 4 stars", "🇫🇷 🏳️‍🌈 👩‍👩‍👧",
    "ĀĒĪŌŪ māori", "Ìgbò Yorùbá ẹ̀kọ́", "İstanbul'da ışık",
    "ქართული ენა", "Հայերեն լեզու", "தமிழ் மொழி", "සිංහල", "မြန်မာ", "ភាសាខ្មែរ", "አማርኛ", "ייִדיש", "فارسی «کتاب»", "ಕನ್ನಡ",
)  # fmt: skip


def read_as(encoding: str, *texts: str) -> list[tuple[str, str]]:
    """Texts whose UTF-8 was read in another encoding, each with what was written."""
    return [(text.encode().decode(encoding), text) for text in texts]


def twice(text: str) -> str:
    return text.encode().decode("sloppy-windows-1252").encode().decode("sloppy-windows-1252")


MENDABLE = [
    *read_as("latin-1", FRENCH, JAPANESE, SPANISH),
    *read_as(
        "sloppy-windows-1252", FRENCH, GERMAN, SPANISH, POLISH, CZECH, TURKISH, VIETNAMESE, RUSSIAN, GREEK, HEBREW
    ),
    *read_as("sloppy-windows-1252", ARABIC, HINDI, THAI, JAPANESE, CHINESE, KOREAN, QUOTES, EMOJI, ONE_LETTER),
    *read_as("sloppy-windows-1252", "a sign that says 50 € only", "a thermometer at 20 °C"),
    *read_as("sloppy-windows-1250", POLISH, FRENCH, QUOTES),
    *read_as("sloppy-windows-1251", RUSSIAN, FRENCH, QUOTES),
    *read_as("sloppy-windows-1253", GREEK),
    *read_as("sloppy-windows-1254", TURKISH),
    *read_as("sloppy-windows-1257", QUOTES),
    *read_as("iso-8859-2", POLISH),
    *read_as("cp437", FRENCH, RUSSIAN, JAPANESE),
    *read_as("cp850", GERMAN),
    *read_as("macroman", FRENCH, QUOTES, JAPANESE),
    *((twice(text), text) for text in (FRENCH, QUOTES, JAPANESE)),
    (twice(twice(ONE_LETTER)), ONE_LETTER),
    ("une glace Ã  la vanille", "une glace à la vanille"),  # its no-break space became a space
    (QUOTES.encode("cp1252").decode("latin-1"), QUOTES),  # control characters for quotation marks
    (f"{GERMAN}: {ONE_LETTER}".replace("é", "Ã©"), f"{GERMAN}: {ONE_LETTER}"),  # two texts, one of them sound
    (f"{JAPANESE} cafÃ©", f"{JAPANESE} café"),
]
LOSSY = [
    QUOTES.encode().decode("cp1252", "replace"),
    JAPANESE.encode().decode("cp1252", "replace"),
    RUSSIAN.encode().decode("cp1252", "replace"),
    QUOTES.encode().decode("cp1252", "ignore"),
    CHINESE.encode("gbk").decode("latin-1"),
    KOREAN.encode("euc-kr").decode("latin-1"),
    JAPANESE.encode("shift-jis").decode("sloppy-windows-1252"),
    FRENCH.encode("cp1252").decode("cp437"),
    FRENCH.encode("macroman").decode("sloppy-windows-1252"),
    ARABIC.encode("cp1256").decode("cp1252"),
]


@pytest.mark.parametrize(("damaged", "written"), MENDABLE)
def test_a_text_in_the_wrong_encoding_is_found_and_mended(damaged: str, written: str) -> None:
    assert has_wrong_encoding(damaged)
    assert fix_wrong_encoding(damaged) == written


@pytest.mark.parametrize("damaged", LOSSY)
def test_a_text_that_has_lost_letters_is_found(damaged: str) -> None:
    assert has_wrong_encoding(damaged)


@pytest.mark.parametrize("text", SOUND)
def test_a_sound_text_is_left_as_it_is(text: str) -> None:
    for variant in (text, text.upper(), text.lower(), f"“{text}”", f"«{text}» ({text})", f"a sign: „{text}“, 5 €"):
        assert not has_wrong_encoding(variant), variant
        assert fix_wrong_encoding(variant) == variant


def test_two_sound_texts_are_sound_together() -> None:
    for left, right in itertools.product(SOUND, repeat=2):
        assert not has_wrong_encoding(f"{left} {right}"), (left, right)


@given(st.text(max_size=100))
def test_what_is_mended_is_sound(text: str) -> None:
    fixed = fix_wrong_encoding(text)
    assert fixed == text or not has_wrong_encoding(fixed)


def test_no_message_of_an_installed_translation_is_flagged_unless_it_is_broken() -> None:
    """Some translations are broken indeed; those can be mended."""
    folder = Path(gettext.textdomain.__globals__["_default_localedir"])
    catalogues = sorted({*folder.glob("*/LC_MESSAGES/*.mo"), *Path("/usr/share/locale").glob("*/LC_MESSAGES/*.mo")})
    if not catalogues:
        pytest.skip("no translations (*/LC_MESSAGES/*.mo) are installed")
    flagged, count = [], 0
    for path in random.Random(0).sample(catalogues, min(150, len(catalogues))):
        with path.open("rb") as file:
            messages = gettext.GNUTranslations(file)._catalog.values()  # type: ignore[attr-defined] # it has no other list
        texts = [text for text in messages if isinstance(text, str) and not text.isascii()]
        flagged += [text for text in texts if has_wrong_encoding(text)]
        count += len(texts)
    assert all(fix_wrong_encoding(text) != text for text in flagged)
    assert len(flagged) <= 1e-3 * count
