"""Personal data is found and replaced by the name of its kind; numbers that only look like it stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.captions.personal_data import mask_personal_data, personal_data_kinds


@pytest.mark.parametrize(
    ("text", "masked", "kinds"),
    [
        ("mail jane.sample@example.com now", "mail [mail address] now", ["mail address"]),
        ("jane [at] example [dot] com", "[mail address]", ["mail address"]),
        ("call +1 555-0142", "call [telephone number]", ["telephone number"]),
        ("card 4111 1111 1111 1111", "card [card number]", ["card number"]),
        ("IBAN DE89 3704 0044 0532 0130 00", "IBAN [bank account]", ["bank account"]),
        ("a form with 078-05-1120 on it", "a form with [social security number] on it", ["social security number"]),
        ("12 Main Street, Springfield 12345", "[postal address]", ["postal address"]),
        ("photo by @jane_sample", "photo by [account name]", ["account name"]),
    ],
)
def test_each_kind_is_found_and_masked(text: str, masked: str, kinds: list[str]) -> None:
    assert personal_data_kinds(text) == kinds
    assert mask_personal_data(text) == masked
    assert personal_data_kinds(masked) == []


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # a wrong checksum of a card
        "DE89 3704 0044 0532 0130 01",  # a wrong checksum of an account
        "a bus with number 42 at 12:30",
        "1920 x 1080 pixels",
        "a dog",
        "",
    ],
)
def test_other_numbers_stay(text: str) -> None:
    assert personal_data_kinds(text) == []
    assert mask_personal_data(text) == text


@given(st.text(alphabet=st.characters(exclude_categories=["Nd"], exclude_characters="@[({0123456789")))
def test_texts_without_digits_and_at_signs_hold_none(text: str) -> None:
    assert personal_data_kinds(text) == []
    assert mask_personal_data(text) == text
