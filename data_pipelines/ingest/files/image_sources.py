"""Image sources: the folders and tars that images named in annotations are read from.

No name can lead out of its folder or tar.
"""

import errno
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar
from urllib.parse import unquote

from data_pipelines.archives.tar_reader import open_tar, scan_tar
from data_pipelines.datasets.records import Reject

MAX_NAME_BYTES = 1024
MAX_LISTED_BYTES = 1 << 40  # of a compressed tar that is only listed
_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*://|^data:")
_DRIVE = re.compile(r"^[a-zA-Z]:")
T = TypeVar("T")
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class ImageSource(Protocol):
    """Finds and reads the file with a name from an annotation, by one rule, so that what is read can be counted."""

    def locate(self, name: str) -> Path | Reject:
        """The file, or the tar, that `read` takes the bytes from."""

    def read(self, name: str) -> bytes | Reject: ...


def check_name(name: str) -> Reject | None:
    """Why an image name is refused, None if it is fine. Decided from the text alone; nothing is opened."""
    shown = repr(name[:200])
    if not name.strip() or "\x00" in name:
        return Reject(reason="unsafe_path", detail=f"image name {shown} is empty or holds a NUL")
    if len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        return Reject(reason="unsafe_path", detail=f"image name of {len(name)} characters, at most {MAX_NAME_BYTES}")
    if _URL.match(name):
        return Reject(reason="remote_url", detail=f"image name {shown} is an address; only local names are read")
    if name[0] in "/\\" or _DRIVE.match(name):
        return Reject(reason="absolute_path", detail=f"image name {shown} is absolute, expected one below the root")
    decoded = (name, unquote(name), unquote(unquote(name)))
    if any(".." in spelling.replace("\\", "/").split("/") for spelling in decoded):
        return Reject(reason="path_traversal", detail=f"image name {shown} leads out of its folder")
    if str(PurePosixPath(name)) == ".":
        return Reject(reason="unsafe_path", detail=f"image name {shown} is a folder")
    return None


class FolderSource:
    """Images below a folder. Follows symbolic links only while they stay inside it."""

    def __init__(self, root: Path, *, max_bytes: int, as_listed: bool = False) -> None:
        """`as_listed`: names come from the folder itself, so only the normal form of Unicode may differ: `a b.txt` has
        no words of `a%20b.png`."""
        self.root = root.resolve()
        self.max_bytes = max_bytes
        self._spellings = normal_forms if as_listed else spellings
        self._folder = _folder_id(self.root)
        self._roots = (self.root, *hub_blobs(self.root))

    def locate(self, name: str) -> Path | Reject:
        return self._found(name, lambda path: _checked(path, self.max_bytes, name))

    def read(self, name: str) -> bytes | Reject:
        return self._found(name, lambda path: read_regular_file(path, max_bytes=self.max_bytes, name=name))

    def _found(self, name: str, use: Callable[[Path], T | Reject]) -> T | Reject:
        """The result of `use` on the regular file with a name, in the first spelling of it that exists."""
        problem = check_name(name)
        if problem is not None:
            return problem
        for spelling in self._spellings(name):
            try:
                path = (self.root / spelling).resolve(strict=True)
                if not any(path.is_relative_to(root) for root in self._roots):
                    detail = f"{name[:200]!r} is a link that leads out of the folder"
                    return Reject(reason="path_traversal", detail=detail)
                return use(path)
            except FileNotFoundError:
                continue
            except (OSError, ValueError, RuntimeError) as error:  # name too long, loop of links, no permission
                if spelling != name and _is_no_name(error):
                    continue  # no disk has a file that is called so
                if isinstance(error, OSError) and error.errno not in _FAULTS_OF_NAMES:
                    raise  # the disk or the network fails: that says nothing about the file
                return Reject(reason="unsafe_path", detail=f"{name[:200]!r}: {type(error).__name__}")
        self._check_root()
        return Reject(reason="missing_file", detail=f"no file {name[:200]!r}")

    def _check_root(self) -> None:
        """Raises: OSError: the folder is gone, or another file system is mounted there; its files are not missing."""
        if _folder_id(self.root) != self._folder:
            raise OSError(errno.ESTALE, "the folder of images is gone or is another one now", str(self.root))


# What `open` says of a name that cannot be read, however healthy the disk is.
_FAULTS_OF_NAMES = {
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EINVAL),
    *(errno.EILSEQ, errno.ENXIO, errno.EOVERFLOW),
}


def _is_no_name(error: Exception) -> bool:
    """Whether a name is refused as too long, or as it holds a NUL, before any file is looked for."""
    return isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG)


def spellings(name: str) -> Iterator[str]:
    """The ways in which a name may stand on a disk: as it is, in the other normal form of Unicode, in Latin-1, with the
    slashes of Windows, and without the escapes of an address; each once."""
    others = [*normal_forms(name), name.replace("\\", "/"), unquote(name)]
    with suppress(UnicodeError):
        others.append(os.fsdecode(name.encode("latin-1")))
    yield from dict.fromkeys(others)


def normal_forms(name: str) -> Iterator[str]:
    """A name as it is, and in the other normal form of Unicode; each once."""
    yield from dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))))


def hub_blobs(root: Path) -> list[Path]:
    """The folder of the files that links in a snapshot of a Hugging Face cache lead to; empty for any other folder."""
    parts = root.parts
    for number in range(len(parts) - 1, 0, -1):
        if parts[number] == "snapshots":
            blobs = Path(*parts[:number], "blobs")
            return [blobs.resolve()] if blobs.is_dir() else []
    return []


def _folder_id(folder: Path) -> tuple[int, int] | None:
    """File system and number of a folder; None if it is gone."""
    try:
        facts = folder.stat()
    except FileNotFoundError:
        return None
    return facts.st_dev, facts.st_ino


def read_regular_file(path: Path, *, max_bytes: int, name: str) -> bytes | Reject:
    """The bytes of a regular file of at most `max_bytes`; a reject for a device, pipe, folder or larger file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        refused = _refused(os.fstat(descriptor), max_bytes, name)
        return refused if refused is not None else file.read(max_bytes + 1)


def _checked(path: Path, max_bytes: int, name: str) -> Path | Reject:
    """The path if `read_regular_file` would read it. Raises: OSError as that does for a file that cannot be opened."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        return _refused(os.fstat(descriptor), max_bytes, name) or path
    finally:
        os.close(descriptor)


def _refused(facts: os.stat_result, max_bytes: int, name: str) -> Reject | None:
    if not stat.S_ISREG(facts.st_mode):
        return Reject(reason="unsafe_path", detail=f"{name[:200]!r} is not a regular file")
    if facts.st_size > max_bytes:
        return Reject(reason="too_large", detail=f"{name[:200]!r}: {facts.st_size} bytes, at most {max_bytes}")
    return None


class TarSource:
    """Images inside tars, found by member name. Reads all headers once, on construction."""

    def __init__(self, paths: Sequence[Path], *, max_bytes: int, max_unpacked_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._paths = tuple(paths)
        self._files = [open_tar(path, max_unpacked_bytes=max_unpacked_bytes) for path in paths]
        self._spans: dict[str, tuple[int, int, int]] = {}  # member name -> (number of the tar, offset, size)
        for number, opened in enumerate(self._files):
            for member in scan_tar(opened.file, opened.size):
                if member.kind == "file" and not member.problem:
                    self._spans.setdefault(_plain(member.name), (number, member.offset, member.size))

    def locate(self, name: str) -> Path | Reject:
        span = self._span(name)
        return span if isinstance(span, Reject) else self._paths[span[0]]

    def read(self, name: str) -> bytes | Reject:
        span = self._span(name)
        if isinstance(span, Reject):
            return span
        number, offset, size = span
        file = self._files[number].file
        file.seek(offset)
        return file.read(size)

    def _span(self, name: str) -> tuple[int, int, int] | Reject:
        problem = check_name(name)
        if problem is not None:
            return problem
        found = next((self._spans[plain] for plain in map(_plain, spellings(name)) if plain in self._spans), None)
        if found is None:
            return Reject(reason="missing_file", detail=f"no member {name[:200]!r} in the tars")
        if found[2] > self.max_bytes:
            return Reject(reason="too_large", detail=f"{name[:200]!r}: {found[2]} bytes, at most {self.max_bytes}")
        return found


class ChainedSource:
    """Tries each source in turn; the first that has the name wins."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self.sources = tuple(sources)

    def locate(self, name: str) -> Path | Reject:
        return _first_found((source.locate(name) for source in self.sources), name)

    def read(self, name: str) -> bytes | Reject:
        return _first_found((source.read(name) for source in self.sources), name)


def _first_found(answers: Iterator[T | Reject], name: str) -> T | Reject:
    """The first answer that is not that the file is missing, else the first answer."""
    first: Reject | None = None
    for answer in answers:
        if not isinstance(answer, Reject) or answer.reason != "missing_file":
            return answer
        first = first or answer
    return first or Reject(reason="missing_file", detail=f"no place to look for {name[:200]!r}")


def open_images(paths: Sequence[Path], *, max_bytes: int, max_unpacked_bytes: int) -> ImageSource:
    """One image source over all of the folders and tars.

    Raises: FileNotFoundError if a path does not exist.
    """
    sources: list[ImageSource] = []
    tars = []
    for path in paths:
        if path.is_dir():
            sources.append(FolderSource(path, max_bytes=max_bytes))
        elif path.is_file():
            tars.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such folder or tar of images; give the one that annotations refer to")
    if tars:
        sources.append(TarSource(tars, max_bytes=max_bytes, max_unpacked_bytes=max_unpacked_bytes))
    return sources[0] if len(sources) == 1 else ChainedSource(sources)


def member_names(path: Path) -> frozenset[str]:
    """Names of the undamaged files inside a tar."""
    opened = open_tar(path, max_unpacked_bytes=MAX_LISTED_BYTES)
    return frozenset(
        _plain(member.name)
        for member in scan_tar(opened.file, opened.size)
        if member.kind == "file" and not member.problem
    )


def _plain(name: str) -> str:
    """The name without a leading "./", which tars of a folder put before their members."""
    while name.startswith("./"):
        name = name[2:]
    return name
