"""Languages of captions: sentences are detected, fragments are not guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.captions.languages import detect_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("A brown dog sits on a wooden bench beside a small lake in the park", "en"),
        ("Ein brauner Hund sitzt auf einer Bank am See", "de"),
        ("Un chien brun est assis sur un banc en bois au bord du lac", "fr"),
        ("Un perro marrón está sentado en un banco de madera junto al lago", "es"),
        ("Коричневая собака сидит на деревянной скамейке у небольшого озера", "ru"),  # noqa: RUF001 # Russian letters are meant
        ("كلب بني يجلس على مقعد خشبي بجانب بحيرة صغيرة", "ar"),
        ("茶色の犬がベンチに座っている", "ja"),
        ("两只狗在公园里玩", "zh"),
        ("갈색 개가 벤치에 앉아 있다", "ko"),
        ("σκύλος", "el"),
        ("犬", "zh"),
        ("Leek", "und"),
        ("a photo of a hat", "en"),
        ("two dogs", "en"),
        ("A man in a boat", "en"),
        ("red", "en"),
        ("DSC_0231", "und"),
        ("une photo", "und"),
        ("le train", "und"),
        ("en man", "und"),
        ("ein Ball", "und"),
        ("de oude man", "und"),
        ("o gato no mar", "und"),
        ("собака", "und"),
        ("12:45 / 7 %", "und"),
        ("", "und"),
    ],
)
def test_the_language_of_a_caption(text: str, language: str) -> None:
    assert detect_language(text) == language


@given(st.text(max_size=400))
def test_any_text_has_a_code(text: str) -> None:
    code = detect_language(text)
    assert code == "und" or (len(code) == 2 and code.isalpha())
