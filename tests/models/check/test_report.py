"""Comparisons of a check: what counts as equal."""

import pytest
import torch

from models.check.report import Report


def test_nan_is_never_equal() -> None:
    report = Report()
    values = torch.tensor([1.0, float("nan")])
    report.expect_tensor("tensor", values, values, atol=1.0)
    report.expect_number("number", float("nan"), float("nan"), rtol=1.0)
    assert report.misses == 2


def test_tensors_are_equal_up_to_the_tolerance_and_only_in_the_same_shape() -> None:
    report = Report()
    report.expect_tensor("at the tolerance", torch.tensor([1.0]), torch.tensor([1.5]), atol=0.5)
    assert report.misses == 0
    report.expect_tensor("beyond it", torch.tensor([1.0]), torch.tensor([1.5]), atol=0.49)
    report.expect_tensor("in another shape", torch.zeros(2), torch.zeros(2, 1), atol=1.0)
    assert report.misses == 2
    report.expect_tensor("empty", torch.zeros(0), torch.zeros(0), atol=0.0)
    assert report.misses == 2


@pytest.mark.parametrize(("found", "is_miss"), [([1, 2, 9], 0), ([1, 9, 3], 1), ([1, 2], 1)])
def test_codes_may_differ_only_where_two_are_about_equally_near(found: list[int], is_miss: int) -> None:
    report = Report()
    margin = torch.tensor([1.0, 0.1, 1e-6])  # the third is a tie
    report.expect_codes("codes", torch.tensor(found), torch.tensor([1, 2, 3]), margin, min_margin=1e-4)
    assert report.misses == is_miss


def test_parts_that_were_not_compared_are_neither_compared_nor_missed() -> None:
    report = Report()
    report.skip("part", "of no known kind")
    report.fail("other", "could not be computed")
    assert (report.compared, report.misses) == (1, 1)
    assert report.findings[0].text == "not compared: of no known kind"
