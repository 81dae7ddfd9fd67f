"""Anchor decisions: which anchor an image gets, how it is resized and cut, whether it is kept."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from models.check.report import Report, Vectors
from models.dualvitok.geometry import PUBLISHED_MAX_CROP, Size, fit_to_anchor, match_anchor

_CROP_DIGITS = 1e-8  # the files state shares to nine digits
_WHITE = (255, 255, 255)
_NOTES = {"description", "note", "black_border_note", "anchors_hw", "crop_percent_thresh"}


def check_anchors(vectors: Vectors, report: Report) -> None:
    """Every list of decisions in the file; a list's name says which anchors it is about."""
    facts = vectors.facts
    anchors = tuple((int(height), int(width)) for height, width in facts["anchors_hw"])
    max_crop = facts.get("crop_percent_thresh", PUBLISHED_MAX_CROP)
    for name, cases in facts.items():
        fixed = re.fullmatch(r"fixed_(\d+)", name)
        if name == "black_border_cases":
            _check_black_borders(cases, anchors, report)
        elif name == "fixed_anchors" or fixed:
            chosen = ((int(fixed[1]), int(fixed[1])),) if fixed else anchors
            for case in cases:
                _check_decision(name, case, chosen, max_crop, report)
        elif name not in _NOTES:
            report.skip(name, "no decisions of a known kind")


def _check_decision(
    name: str, case: Mapping[str, Any], anchors: Sequence[Size], max_crop: float, report: Report
) -> None:
    match = match_anchor(case["w"], case["h"], anchors)
    found = {
        "anchor_h": match.anchor[0],
        "anchor_w": match.anchor[1],
        "anchor_index": match.index,
        "cover_w": match.cover_wh[0],
        "cover_h": match.cover_wh[1],
        "kept": match.crop_share <= max_crop,
        "resize_wh": list(match.resize_wh),
        "crop_box_ltrb": list(match.crop_box),
    }
    different = {key: (value, case[key]) for key, value in found.items() if key in case and value != case[key]}
    if abs(match.crop_share - case["crop_percent"]) > _CROP_DIGITS:
        different["crop_percent"] = (match.crop_share, case["crop_percent"])
    report.expect_equal(f"{name} {case['w']}x{case['h']} (WxH)", different, {})


def _check_black_borders(cases: Sequence[Mapping[str, Any]], anchors: Sequence[Size], report: Report) -> None:
    """Where the published crop begins outside the image: the same decision, but our crop must fill the anchor."""
    for case in cases:
        width, height = case["w"], case["h"]
        match = match_anchor(width, height, anchors)
        name = f"black_border_cases {width}x{height} (WxH)"
        report.expect_equal(f"{name} anchor", match.anchor, (case["anchor_h"], case["anchor_w"]))
        report.expect_number(f"{name} crop_percent", match.crop_share, case["crop_percent"], rtol=0, atol=_CROP_DIGITS)
        darkest = int(np.asarray(fit_to_anchor(Image.new("RGB", (width, height), _WHITE), match.anchor)).min())
        report.expect_equal(f"{name} white stays white", darkest, 255, "equal (the published code draws a black line)")
