"""Stages as commented YAML: it reads back as what was given, and every other key is commented out."""

from dataclasses import dataclass

import yaml

from orchestrator.reference.recipe_text import stage_text
from orchestrator.stage import Slot, StageKind


@dataclass(frozen=True, kw_only=True)
class Inner:
    side: int = 8  # pixels
    name: str = "a"


@dataclass(frozen=True, kw_only=True)
class Config:
    text: str  # what is said: a "quoted" one
    inner: Inner = Inner()
    # limits
    most: int | None = None
    words: tuple[str, ...] = tuple("abcdefghijklmnopqrstuvwxyz")


KIND = StageKind(
    name="say",
    version=1,
    config=Config,
    run=lambda _config, _context: {},
    output="words@1",
    inputs={"heard": Slot(kind="words@1")},
)


def test_the_text_reads_back_and_lists_the_other_keys() -> None:
    text = stage_text("said", KIND, {"text": "it's: 'x'", "inner": {"side": 4}}, {"heard": "before"})
    assert yaml.safe_load(text) == {
        "said": {"kind": "say", "inputs": {"heard": "before"}, "config": {"text": "it's: 'x'", "inner": {"side": 4}}}
    }
    for line in (
        '      text: "it\'s: \'x\'"  # what is said: a "quoted" one',
        "        side: 4  # pixels",
        '        # name: "a"',
        "      # -- limits",
        "      # most: null",
        "      # words: ...",
    ):
        assert line in text.splitlines()
