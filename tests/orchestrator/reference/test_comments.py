"""Comments beside fields: where they may stand, what is not one, and classes without source."""

import importlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.reference.comments import FieldComment, field_comments

SOURCE = '''
from dataclasses import dataclass

@dataclass(frozen=True, kw_only=True)
class Base:
    inherited: int = 1  # of the base

@dataclass(frozen=True, kw_only=True)
class Config(Base):
    """A docstring with a # sign."""

    plain: int
    text: str = "# no comment"  # after a text with a sign
    # sizes
    long: tuple[int, ...] = (
        1,  # the first
        2,  # the second
    )
    quiet: int = 0  # fmt: skip
    # of what is written,
    # in two lines
    last: float = 0.5  # 0 to 1; {braces} and "quotes"

    def method(self) -> int:
        # not about a field
        return 1

def make():
    @dataclass(frozen=True, kw_only=True)
    class Inner:
        side: int  # pixels
    return Inner
'''


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to import from; what was imported is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_each_field_has_the_comment_on_its_lines(modules: Path) -> None:
    (modules / "commented.py").write_text(SOURCE)
    module = importlib.import_module("commented")
    found = field_comments(module.Config)
    assert found["inherited"].text == "of the base"
    assert found["plain"] == FieldComment()
    assert found["text"] == FieldComment(text="after a text with a sign")
    assert found["long"] == FieldComment(text="the first the second", section="sizes")
    assert found["quiet"] == FieldComment(section="sizes")
    assert found["last"] == FieldComment(
        text='of what is written, in two lines 0 to 1; {braces} and "quotes"', section="sizes"
    )
    assert set(found) == {"inherited", "plain", "text", "long", "quiet", "last"}
    assert field_comments(module.make())["side"].text == "pixels"


def test_a_package_may_be_an_archive(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(modules / "package.zip", "w") as archive:
        archive.writestr("zipped.py", SOURCE)
    monkeypatch.syspath_prepend(str(modules / "package.zip"))
    assert field_comments(importlib.import_module("zipped").Config)["last"].text.startswith("of what is written")


def test_without_source_there_are_no_comments(modules: Path) -> None:
    file = modules / "gone.py"
    file.write_text(SOURCE)
    module = importlib.import_module("gone")
    file.unlink()
    assert field_comments(module.Config) == {}
