"""Short captions: English ones are known, those of near languages are not taken for English."""

import pytest

from data_pipelines.captions.english_words import is_english


@pytest.mark.parametrize(
    "text",
    [
        "a cat",
        "the hills",
        "sunset",
        "A red car on the street.",
        "change the colour",
        "two",
        "Woman's shoes",
        "The equation is 51x + 99y + 55z = 42",
        "Chart of x and y",
        "Page 3 of the report",
    ],
)
def test_short_english_captions_are_english(text: str) -> None:
    assert is_english(text)


@pytest.mark.parametrize(
    "text",
    ["rote Blume", "die Katze", "un chat noir", "el perro rojo", "een kleine hond", "una casa", "en hund", "in Berlin",
     "o gato", "photo", "Frau am See", "la mer en winter", "på sjön", "", "12 / 4"],
)  # fmt: skip
def test_short_captions_of_near_languages_are_not(text: str) -> None:
    assert not is_english(text)
