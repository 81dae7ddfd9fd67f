"""Matches of a takedown grouped by why."""

from dataclasses import replace
from typing import Any

from data_pipelines.provenance.match_groups import match_groups
from data_pipelines.provenance.sample_search import Match

MATCH = Match(
    sample_id="a" * 64, external_id=None, found_by="image", source="web", source_file="a.jsonl", source_row=5,
    verdict="keep", reason=None, duplicate_of=None, shard="s", row=4, images=(),
)  # fmt: skip


def test_groups_go_from_exact_to_far_and_count_what_is_kept() -> None:
    def match(found_by: str, **fields: Any) -> Match:
        return replace(MATCH, found_by=found_by, **fields)

    found = {
        "curated 1": [
            match("looks like x (9 of 64 bits differ)", distance=9),
            match("looks like x (2 of 64 bits differ)", distance=2, verdict="drop"),
            match("a copy of aa", verdict="mirrored"),
            match("a copy of aa", verdict="duplicate"),
        ],
        "curated 2": [match("sample id"), match("looks like x (9 of 64 bits differ)", distance=9, verdict="drop")],
    }
    groups = match_groups(found)
    assert [(group.why, len(group.matches), group.num_kept) for group in groups] == [
        ("exact", 1, 1),
        ("copies", 1, 0),
        ("mirrored", 1, 0),
        ("near-02", 1, 0),
        ("near-09", 2, 1),
    ]
    assert [group.matches[0][1].verdict for group in groups[1:3]] == ["duplicate", "mirrored"]
    assert [group.short for group in groups] == ["exact", "copies", "mirrored", "2 bits differ", "9 bits differ"]
