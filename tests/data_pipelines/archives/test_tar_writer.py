"""Tars are written as Python writes them, without a trace of time or machine."""

import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.archives.tar_reader import BLOCK
from data_pipelines.archives.tar_writer import TarWriter, tar_header
from tests.data_pipelines.archives.tars import MEMBERS, contents, written


def test_what_is_written_is_read_by_python_too() -> None:
    data = written(MEMBERS)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {m.name: tar.extractfile(m).read() for m in tar} == MEMBERS  # type: ignore[union-attr] # all are files
        assert all((m.mtime, m.uid, m.gid, m.uname) == (0, 0, 0, "") for m in tar.getmembers())
    assert contents(data) == MEMBERS


@given(name=st.text("abc/\u00e9. \u65e50", max_size=130), size=st.sampled_from([0, 5, 10**6, 8**11 - 1, 8**11, 8**12]))
def test_headers_are_those_of_python(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert tar_header(name, size) == info.tobuf(tarfile.GNU_FORMAT)


@given(st.dictionaries(st.text("abc/\u00e9", min_size=1, max_size=130), st.binary(max_size=1200), max_size=4))
def test_a_tar_has_the_bytes_that_python_writes(members: dict[str, bytes]) -> None:
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert written(members) == expected.getvalue()


def test_spans_locate_headers_and_bytes() -> None:
    buffer = io.BytesIO()
    tar = TarWriter(buffer)
    spans = [tar.add(name, data) for name, data in MEMBERS.items()]
    raw = buffer.getvalue()
    for span, (name, data) in zip(spans, MEMBERS.items(), strict=True):
        assert raw[span.header :].startswith(name.encode())
        assert raw[span.data : span.data + len(data)] == data
        assert span.end % BLOCK == 0
