"""Texts of any content stay text in a page, and its images are bounded."""

import html
import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.audit.histograms import Histogram
from data_pipelines.audit.markup import ImageBudget, bar, chart, escaped, shortened
from data_pipelines.audit.summary import Cell


def test_images_end_before_the_page_grows_too_large() -> None:
    budget = ImageBudget(max_bytes=25)
    shown = [budget.embed(bytes(10)) for _ in range(4)]
    assert [text.startswith("<img") for text in shown] == [True, True, False, False]
    assert "the page is full" in shown[2]


@given(st.text())
def test_any_text_is_escaped_and_visible(text: str) -> None:
    shown = escaped(text)
    assert not set(shown) & set("<>\"'")
    assert all(character.isprintable() for character in html.unescape(shown))


@given(st.text(), st.integers(2, 20))
def test_texts_are_cut_to_a_number_of_characters(text: str, max_chars: int) -> None:
    shown = html.unescape(shortened(text, max_chars))
    assert len(shown) <= max_chars
    assert "  " not in shown


def test_a_bar_has_a_part_for_each_verdict_with_rows() -> None:
    cell = Cell()
    cell.add("keep", 30, 0)
    cell.add("drop", 10, 0)
    assert re.findall(r'class="(\w+)" style="width:([\d.]+)%', bar(cell, 80)) == [("keep", "37.50"), ("drop", "12.50")]
    assert bar(Cell(), 0) == '<div class="bar"></div>'


def test_a_chart_spans_the_bins_with_rows() -> None:
    histogram = Histogram(edges=(0.0, 1.0, 2.0, 3.0, 4.0))
    assert chart("entropy", histogram) == ""
    histogram.add(np.array([1.5, 2.5, 2.5]), np.array([True, False, True]))
    shown = chart("entropy", histogram)
    assert re.findall("<title>(.*?)</title>", shown) == ["1 to 2: 1", "2 to 3: 2"]
    assert "<span>1</span><span>half below 3</span><span>3</span>" in shown
