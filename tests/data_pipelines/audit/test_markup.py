"""Values of any content stay text in a page, and its images are bounded."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from data_pipelines.audit.histograms import Histogram
from data_pipelines.audit.markup import ImageBudget, chart, page_environment, shortened
from data_pipelines.audit.page import VERDICT_NAMES
from data_pipelines.audit.summary import Cell, printable
from tests.pages import ATTACKS, Page


def test_images_end_before_the_page_grows_too_large() -> None:
    budget = ImageBudget(max_bytes=25)
    assert [budget.take(bytes(10)) for _ in range(4)] == [True, True, False, False]
    assert budget.take(bytes(5)), "a smaller image still has room"


@given(st.text())
@example("".join(ATTACKS))
def test_any_value_stays_one_visible_text_and_one_attribute(value: str) -> None:
    source = '{% macro part(value) %}<b class="{{ value }}">{{ value }}</b>{% endmacro %}{{ part(value) }}'
    page = Page(page_environment().from_string(source).render(value=value))
    assert (page.tags, page.comments) == (["b"], [])
    assert page.attributes == [("class", printable(value))]
    assert page.words == printable(value)


def test_a_name_that_a_template_lacks_is_an_error() -> None:
    for source in ("{{ absent }}", "{{ row.absent }}", "{% if row.absent %}{% endif %}"):
        with pytest.raises(UndefinedError, match="absent"):
            page_environment().from_string(source).render(row={})


@given(st.text(), st.integers(2, 20))
def test_texts_are_cut_to_a_number_of_characters(text: str, max_chars: int) -> None:
    shown = shortened(text, max_chars)
    assert len(shown) <= max_chars
    assert "  " not in shown


def test_a_bar_has_a_part_for_each_verdict_with_rows() -> None:
    cell = Cell()
    cell.add("keep", 30, 0)
    cell.add("drop", 10, 0)
    elements = page_environment().get_template("elements.html").make_module({"verdict_names": VERDICT_NAMES})
    bar = vars(elements)["bar"]  # a macro of the template
    assert Page(bar(cell, 80)).attributes == [
        ("class", "bar"), ("aria-hidden", "true"),
        ("class", "keep"), ("style", "width:37.50%"), ("class", "drop"), ("style", "width:12.50%"),
    ]  # fmt: skip
    assert Page(bar(Cell(), 0)).tags == ["div"]


def test_a_chart_spans_the_bins_with_rows() -> None:
    histogram = Histogram(edges=(0.0, 1.0, 2.0, 3.0, 4.0))
    assert chart("entropy", histogram) is None
    histogram.add(np.array([1.5, 2.5, 2.5]), np.array([True, False, True]))
    drawn = chart("entropy", histogram)
    assert drawn is not None
    assert [(bar.low, bar.high, bar.rows) for bar in drawn.bars] == [("1", "2", 1), ("2", "3", 2)]
    assert (drawn.low, drawn.median, drawn.high) == ("1", "3", "3")
    assert [(bar.kept.y, bar.kept.height) for bar in drawn.bars] == [("50.0", "50.0"), ("50.0", "50.0")]
    assert [(bar.not_kept.y, bar.not_kept.height) for bar in drawn.bars] == [("50.0", "0.0"), ("0.0", "50.0")]
