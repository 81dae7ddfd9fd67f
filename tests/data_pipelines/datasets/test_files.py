"""Files that come when they are read: asked for once while they are on their way, found where they are."""

import io
import threading
from collections import OrderedDict
from pathlib import Path

import pytest

from data_pipelines.datasets import files
from data_pipelines.datasets.files import (
    fetch_from,
    file_of,
    open_part,
    path_of,
    read_ahead,
    read_span,
    read_span_ahead,
)
from data_pipelines.datasets.reader import CuratedDataset, DatasetError
from tests.data_pipelines.conftest import MakeDataset


def test_a_file_that_is_there_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("1")
    fetch_from(tmp_path, lambda name: pytest.fail(f"fetched {name}"))
    assert file_of(tmp_path, "here") == tmp_path / "here"
    assert file_of(tmp_path / "other", "absent") == tmp_path / "other/absent"  # nothing fetches that folder


def test_a_part_of_a_file_is_read_without_fetching_it_where_its_folder_can(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"fetched")
    fetch_from(tmp_path, lambda _name: elsewhere, lambda name: None if name == "absent" else io.BytesIO(b"opened"))
    assert open_part(tmp_path, "away").read() == b"opened"
    assert open_part(tmp_path, "elsewhere").read() == b"fetched"  # it is here
    fetch_from(tmp_path / "plain", lambda _name: elsewhere)
    assert path_of(tmp_path / "plain/deep/away") == elsewhere
    assert path_of(elsewhere) == elsewhere
    assert path_of(tmp_path.parent / "nowhere") == tmp_path.parent / "nowhere"
    assert open_part(tmp_path / "plain", "away").read() == b"fetched"
    fetch_from(tmp_path / "empty", lambda _name: None)
    with pytest.raises(FileNotFoundError):
        open_part(tmp_path / "empty", "away")


def test_what_is_read_soon_is_fetched_once_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    may_arrive = threading.Event()

    def fetch(name: str) -> Path | None:
        calls.append(name)
        assert may_arrive.wait(60)
        return tmp_path / "copies" / name if name != "absent" else None

    fetch_from(tmp_path, fetch)
    read_ahead(tmp_path, ["a", "a"])
    arriving = files._arriving[tmp_path, "a"]
    wait = arriving.result
    monkeypatch.setattr(arriving, "result", lambda: may_arrive.set() or wait())  # it arrives while somebody waits
    assert file_of(tmp_path, "a") == tmp_path / "copies/a"
    assert calls == ["a"]
    assert file_of(tmp_path, "absent") == tmp_path / "absent"


def test_a_dataset_whose_shards_are_elsewhere_is_read_as_one_that_is_here(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    made = make_dataset(12, name="away")
    here = tmp_path / "node"
    here.mkdir()
    (here / "dataset.json").write_bytes((made.dataset / "dataset.json").read_bytes())
    with pytest.raises(DatasetError, match="not a ledger that can be read"):
        CuratedDataset(here).rows("away-00000")
    fetched: list[str] = []
    fetch_from(here, lambda name: fetched.append(name) or made.dataset / name)
    rows = CuratedDataset(here).rows("away-00000")
    samples = list(CuratedDataset(here).samples("away-00000", rows))
    assert samples == list(CuratedDataset(made.dataset).samples("away-00000", rows))
    assert set(fetched) == {"ledger/away-00000.parquet", "shards/away-00000.tar"}


def test_parts_are_read_where_they_are_less_than_the_file_with_a_request(tmp_path: Path) -> None:
    content, size = bytes(range(250)) * 40, 10_000
    read, elsewhere = list[str](), tmp_path / "elsewhere"
    elsewhere.write_bytes(content)

    def read_part(name: str, offset: int, num_bytes: int) -> bytes:
        read.append(name)
        return content[offset : offset + num_bytes]

    big = {"a": files.REQUEST_BYTES + size}
    fetch_from(tmp_path / "d", lambda _name: elsewhere, read_part=read_part, not_kept=big)
    read_span_ahead(tmp_path / "d", "a", 10, 5)
    read_span_ahead(tmp_path / "d", "a", 10, 5)
    assert [read_span(tmp_path / "d", "a", 10, 5) for _ in range(2)] == [content[10:15]] * 2
    assert read == ["a", "a"]  # what was read ahead is handed out once
    assert read_span(tmp_path / "d", "a", 10, size) == content[10 : size + 10]  # as a whole: not less
    assert read_span(tmp_path / "d", "kept", 20, 3) == content[20:23]
    assert read == ["a", "a"]


def test_what_is_read_ahead_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "AHEAD_BYTES", 100)
    monkeypatch.setattr(files, "_spans", OrderedDict())
    fetch_from(tmp_path, lambda _name: None, read_part=lambda _name, _at, size: bytes(size), not_kept={"a": 2**30})
    for offset in range(20):
        read_span_ahead(tmp_path, "a", offset, 30)
    assert [offset for _, _, offset, _ in files._spans] == [17, 18, 19]
