import pickle
from pathlib import Path

import pytest

from orchestrator.errors import CorruptArtifactError
from orchestrator.store.link_list import Link, LinkList


def link(name: str) -> Link:
    return Link(name=name, key=f"shards/x/{name}", bytes=1, sha256="ab" * 32, rows=None)


def test_what_one_process_adds_another_one_reads(tmp_path: Path) -> None:
    first = LinkList(tmp_path / "LINKS")
    second = pickle.loads(pickle.dumps(first))  # noqa: S301 - our own bytes
    assert first.read() == second.read() == {}
    for number, links in enumerate((first, second, first, second)):
        links.read()
        links.add(link(f"part-{number}"))
    assert list(first.read()) == [f"part-{number}" for number in range(4)]
    assert first.read() == second.read() == LinkList(tmp_path / "LINKS").read()


def test_additions_that_cross_are_both_kept(tmp_path: Path) -> None:
    first, second = LinkList(tmp_path / "LINKS"), LinkList(tmp_path / "LINKS")
    for links, name in ((first, "a"), (second, "b"), (first, "c")):
        links.add(link(name))
    assert set(first.read()) == set(second.read()) == {"a", "b", "c"}


def test_no_line_is_read_twice(tmp_path: Path) -> None:
    links = LinkList(tmp_path / "LINKS")
    for number in range(3):
        links.read()
        links.add(link(f"part-{number}"))
    seen = tmp_path / "LINKS"
    seen.write_bytes(b"?" * seen.stat().st_size)  # as long as before
    links.add(link("last"))
    assert list(links.read()) == ["part-0", "part-1", "part-2", "last"]
    with pytest.raises(CorruptArtifactError):
        LinkList(seen).read()


def test_a_deleted_list_is_empty(tmp_path: Path) -> None:
    first, second = LinkList(tmp_path / "LINKS"), LinkList(tmp_path / "LINKS")
    first.add(link("a"))
    assert list(second.read()) == ["a"]
    first.delete()
    assert first.read() == second.read() == {}
