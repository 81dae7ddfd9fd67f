"""Tars for the tests of the tar reader and writer."""

import io

from data_pipelines.archives.tar_reader import TarMember, scan_tar
from data_pipelines.archives.tar_writer import TarWriter

MEMBERS = {
    f"s{number:02d}.{ending}": bytes([number]) * (300 * number + 1) for number in range(6) for ending in ("jpg", "txt")
}


def written(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    tar = TarWriter(buffer)
    for name, data in members.items():
        tar.add(name, data)
    tar.close()
    return buffer.getvalue()


def scanned(data: bytes) -> list[TarMember]:
    return list(scan_tar(io.BytesIO(data), len(data)))


def contents(data: bytes) -> dict[str, bytes]:
    return {m.name: data[m.offset : m.offset + m.size] for m in scanned(data) if m.kind == "file" and not m.problem}
