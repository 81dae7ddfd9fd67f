"""Why rows match the questions of a takedown, in groups that a person can look through before applying it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_pipelines.provenance.sample_search import Match

EXACT, MIRRORED, COPIES = "exact", "mirrored", "copies"
TITLES: Mapping[str, str] = {
    EXACT: "Exact: the record, or an image of it with the same bytes, was asked for",
    COPIES: "Copies: curation found them to be the same as a match",
    MIRRORED: "Mirrored: the same with left and right swapped",
}


@dataclass(frozen=True, kw_only=True)
class MatchGroup:
    """Matches for one reason, by dataset."""

    why: str  # `EXACT`, `MIRRORED`, `COPIES`, or "near-<bits>"
    title: str
    short: str  # in a few words
    matches: Sequence[tuple[str, Match]]  # dataset, match

    @property
    def num_kept(self) -> int:
        return sum(match.verdict == "keep" for _, match in self.matches)


def match_groups(matches: Mapping[str, Sequence[Match]]) -> list[MatchGroup]:
    """The groups that are not empty: exact ones, copies, mirrored ones, then near ones by growing distance."""
    groups: dict[str, list[tuple[str, Match]]] = {}
    for dataset, found in matches.items():
        for match in found:
            groups.setdefault(_why(match), []).append((dataset, match))
    order = sorted(groups, key=lambda why: (_rank(why), why))
    return [MatchGroup(why=why, title=_title(why), short=_short(why), matches=groups[why]) for why in order]


def _why(match: Match) -> str:
    if match.distance is not None:
        return f"near-{match.distance:02d}"
    if match.verdict == "mirrored" and match.found_by.startswith("a copy"):
        return MIRRORED
    return COPIES if match.found_by.startswith("a copy") else EXACT


def _rank(why: str) -> int:
    return {EXACT: 0, COPIES: 1, MIRRORED: 2}.get(why, 3)


def _short(why: str) -> str:
    return f"{int(why.removeprefix('near-'))} bits differ" if why not in TITLES else why


def _title(why: str) -> str:
    if why in TITLES:
        return TITLES[why]
    bits = int(why.removeprefix("near-"))
    return f"Looks alike: {bits} of the 64 bits of their perceptual hashes differ"
