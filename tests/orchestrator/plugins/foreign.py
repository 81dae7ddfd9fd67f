"""A package of somebody else: written, with its metadata, as an installer would leave it in a folder of packages."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

KINDS = '''\
"""Stage kinds of others."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.stage import Slot, StageContext, StageKind
from shout_kit.loudness import louder


@dataclass(frozen=True, kw_only=True)
class YellConfig:
    times: int = 1


def yell(config: YellConfig, context: StageContext) -> Mapping[str, float]:
    words = (context.input("words").path / "words.txt").read_text()
    (context.output / "words.txt").write_text(louder(words) * config.times)
    return {"words": float(config.times)}


YELL = StageKind(
    name="yell", version=1, config=YellConfig, run=yell, output="words@1", inputs={"words": Slot(kind="words@1")}
)
ALL = [YELL]
'''
LOUDNESS = """\
def louder(words: str) -> str:
    return words.upper() + "!"
"""
RECIPE = """\
# Somebody else's recipe.
name: yelling
stages:
  said: {kind: say, config: {text: hello}}
  yelled: {kind: yell, inputs: {words: said}, config: {times: 2}}
"""
ENTRY_POINTS = """\
[illume.stages]
kit = shout_kit.kinds:ALL

[illume.recipes]
kit = shout_kit.recipes
"""


@dataclass(frozen=True, kw_only=True)
class Kit:
    """The package `shout_kit` of the distribution `shout-kit`, which offers the stage kind `yell` and a recipe."""

    site: Path  # folder of packages, on `sys.path`

    @property
    def package(self) -> Path:
        return self.site / "shout_kit"

    def install(self, *, version: str = "1.0", kinds: str = KINDS, entry_points: str = ENTRY_POINTS) -> None:
        """Write the package and its metadata; an installed one is replaced."""
        forget_modules("shout_kit")
        (self.package / "recipes").mkdir(parents=True, exist_ok=True)
        (self.package / "__init__.py").write_text("")
        (self.package / "kinds.py").write_text(kinds)
        (self.package / "loudness.py").write_text(LOUDNESS)
        (self.package / "recipes" / "yelling.yaml").write_text(RECIPE)
        metadata = self.site / "shout_kit.dist-info"
        metadata.mkdir(exist_ok=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: shout-kit\nVersion: {version}\n")
        (metadata / "top_level.txt").write_text("shout_kit\n")
        (metadata / "entry_points.txt").write_text(entry_points)


def forget_modules(package: str) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file may change twice within a second
    made = Kit(site=site)
    made.install()
    yield made
    forget_modules("shout_kit")
