"""A store in a bucket of an object store (S3, GCS, Azure), through `obstore`.

Rule: a create that failed or was refused may still have taken effect, so it is always read back.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from orchestrator.artifact import Chunks
from orchestrator.backends.bucket import (
    CLIENT,
    REMOTE_SCHEMES,
    RETRY,
    S3_SCHEMES,
    Clients,
    Connection,
    explained,
    first_line,
)
from orchestrator.backends.objects import CHUNK_BYTES, MAX_RECORD_BYTES, Digest, StoredObject, check_key
from orchestrator.backends.s3_api import S3Api
from orchestrator.backends.transfers import SMALL_BYTES, OvertakenError, part_bytes, parts_in_flight, read_chunks
from orchestrator.errors import StoreError

__all__ = ["CLIENT", "REMOTE_SCHEMES", "RETRY", "ObjectStore"]

log = logging.getLogger(__name__)

CREATE_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8)  # between tries, as concurrent creates answer "conflict, try again"
UPLOAD_TRIES = 3
NO_SUCH_UPLOAD = "NoSuchUpload"
COPY_TOO_LARGE = ("maximum allowable size for a copy source", "EntityTooLarge", "CopySourceTooLarge")


@dataclass(frozen=True)
class ObjectStore:
    """Objects of one bucket below the prefix of the address."""

    url: str
    connection: Connection = field(repr=False, compare=False)

    @classmethod
    def connect(cls, url: str) -> "ObjectStore":
        """The store at an address. Sends no request: the first call of a method does.

        Raises:
            RecipeError: the address holds a password, an unknown option, or is refused by `obstore`.
        """
        return cls(url, Connection.open(url))

    def __reduce__(self) -> tuple[Any, ...]:
        return (ObjectStore.connect, (self.url,))

    @property
    def is_local(self) -> bool:
        return False

    @property
    def s3(self) -> S3Api | None:
        """The requests of S3 that `obstore` does not have; None for the other kinds of store."""
        return S3Api.of(self.url) if urlsplit(self.url).scheme in S3_SCHEMES else None

    def local(self, key: str) -> Path | None:
        return None

    def put_new(self, key: str, data: bytes) -> bool:
        with explained(self.url, key, "write"):
            return self.connection.call(lambda clients: self._create(clients, key, data))

    def _create(self, clients: Clients, key: str, data: bytes) -> bool:
        """Repeats a create only while reading back finds no object, that is, while no writer has won."""
        bucket = clients.requests if len(data) <= SMALL_BYTES else clients.bulk
        for wait_s in (*CREATE_WAITS_S, None):
            try:
                obstore.put(bucket, check_key(key), data, mode="create", use_multipart=False)
            except (PermissionDeniedError, UnauthenticatedError):
                raise
            except BaseError as error:
                found = self._read_back(key, error)
                if found is not None:
                    return found == data
                if wait_s is None:
                    raise
                log.info("create of %s failed and no object exists yet (%s), trying again", key, first_line(error))
                time.sleep(wait_s)
            else:
                return True
        raise AssertionError("unreachable: the last try returned or raised")

    def _read_back(self, key: str, failure: BaseError) -> bytes | None:
        try:
            return self.get(key)
        except StoreError as error:
            raise failure from error

    def get(self, key: str) -> bytes | None:
        def request(clients: Clients) -> bytes | None:
            try:
                found = obstore.get(clients.requests, check_key(key))
                if found.meta["size"] <= MAX_RECORD_BYTES:
                    return bytes(found.bytes())
            except FileNotFoundError as error:
                _raise_for_bucket(error)
                return None
            raise StoreError(f"{self.url}: '{key}': found more than {MAX_RECORD_BYTES:,} bytes, expected a record")

        with explained(self.url, key, "read"):
            return self.connection.call(request)

    def get_range(self, key: str, start: int, size: int) -> bytes | None:
        def request(clients: Clients) -> bytes | None:
            try:
                return bytes(obstore.get_range(clients.requests, check_key(key), start=start, length=size))
            except FileNotFoundError as error:
                _raise_for_bucket(error)
                return None

        with explained(self.url, key, "read"):
            return self.connection.call(request)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        def request(clients: Clients) -> list[Any]:
            pages = obstore.list(clients.requests, check_key(prefix), chunk_size=1000)
            return [item for page in pages for item in page]

        with explained(self.url, prefix, "list"):
            found = self.connection.call(request)
        for item in sorted(found, key=lambda item: item["path"]):
            yield StoredObject(key=item["path"], bytes=item["size"], modified_s=item["last_modified"].timestamp())

    def folders(self, prefix: str) -> tuple[str, ...]:
        with explained(self.url, prefix, "list"):
            found = self.connection.call(
                lambda clients: obstore.list_with_delimiter(clients.requests, check_key(prefix))
            )
        return tuple(sorted(folder.rstrip("/").rpartition("/")[2] for folder in found["common_prefixes"]))

    def delete(self, key: str) -> None:
        def request(clients: Clients) -> None:
            try:
                obstore.delete(clients.requests, check_key(key))
            except FileNotFoundError as error:
                _raise_for_bucket(error)

        with explained(self.url, key, "delete"):
            self.connection.call(request)

    def delete_many(self, keys: Sequence[str]) -> None:
        def request(clients: Clients) -> bool:
            try:
                obstore.delete(clients.requests, [check_key(key) for key in keys])
            except FileNotFoundError as error:  # some stores refuse to delete what does not exist, and stop there
                _raise_for_bucket(error)
                return False
            return True

        if keys:
            with explained(self.url, keys[0], "delete"):
                if self.connection.call(request):
                    return
            for key in keys:
                self.delete(key)

    def upload(self, path: Path, key: str) -> Digest:
        def chunks() -> Iterator[bytes]:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk

        with explained(self.url, key, f"copy {path} to"):
            return self.write(key, chunks, path.stat().st_size)

    def write(self, key: str, chunks: Chunks, size: int) -> Digest:
        with explained(self.url, key, "write"):
            return self.connection.call(lambda clients: self._write_again(clients, key, chunks, size))

    def _write(self, clients: Clients, key: str, chunks: Chunks, size: int) -> Digest:
        hasher, sent = hashlib.sha256(), 0

        def hashed() -> Iterator[bytes | memoryview]:
            nonlocal sent
            for chunk in chunks():
                hasher.update(chunk)
                sent += len(chunk)
                yield chunk

        if size <= SMALL_BYTES:
            obstore.put(clients.bulk, check_key(key), b"".join(hashed()), use_multipart=False)
        else:
            part = part_bytes(size)
            parts = parts_in_flight(part)
            put = obstore.put(clients.bulk, check_key(key), hashed(), chunk_size=part, max_concurrency=parts)
            _check_is_ours(clients, key, put["e_tag"], sent)
        return Digest(bytes=sent, sha256=hasher.hexdigest())

    def _write_again(self, clients: Clients, key: str, chunks: Chunks, size: int) -> Digest:
        """`_write`, from the beginning if the store has forgotten the upload: it expired, somebody ended it, or it is
        complete and the answer was lost. A key has one writer, who sends the same bytes again."""
        for tries_left in reversed(range(UPLOAD_TRIES)):
            try:
                return self._write(clients, key, chunks, size)
            except FileNotFoundError as error:
                if not tries_left or NO_SUCH_UPLOAD not in str(error):
                    raise
                log.warning("%s: the store knows the upload no more, sending it again: %s", key, first_line(error))
        raise AssertionError("unreachable: the last try returned or raised")

    def download(self, key: str, path: Path) -> Digest | None:
        with explained(self.url, key, f"copy to {path} from"):
            return self.connection.call(lambda clients: self._download(clients, key, path))

    def _download(self, clients: Clients, key: str, path: Path) -> Digest | None:
        with path.open("a+b") as file:
            file.seek(0)
            hasher = hashlib.file_digest(file, "sha256")  # what an earlier call has left
            size = file.tell()
            try:
                for chunk in read_chunks(clients.requests, check_key(key), size):
                    hasher.update(chunk)
                    size += file.write(chunk)
            except FileNotFoundError as error:
                _raise_for_bucket(error)
                path.unlink()
                return None
        return Digest(bytes=size, sha256=hasher.hexdigest())

    def digest(self, key: str) -> Digest | None:
        def request(clients: Clients) -> Digest | None:
            hasher, size = hashlib.sha256(), 0
            try:
                for chunk in read_chunks(clients.requests, check_key(key)):
                    hasher.update(chunk)
                    size += len(chunk)
            except FileNotFoundError as error:
                _raise_for_bucket(error)
                return None
            return Digest(bytes=size, sha256=hasher.hexdigest())

        with explained(self.url, key, "read"):
            return self.connection.call(request)

    def link(self, source: str, target: str) -> None:
        def request(clients: Clients) -> None:
            try:
                obstore.copy(clients.bulk, check_key(source), check_key(target))
            except BaseError as error:
                if not any(sign in str(error) for sign in COPY_TOO_LARGE):
                    raise
                self._copy_in_parts(clients, source, target)

        with explained(self.url, target, f"copy '{source}' to"):
            self.connection.call(request)

    def _copy_in_parts(self, clients: Clients, source: str, target: str) -> None:
        """A copy beyond the size of one request: in parts inside the store, or through this machine."""
        found = obstore.head(clients.requests, source)
        part = part_bytes(found["size"])
        if self.s3 is not None:
            self.s3.copy_in_parts(source, target, size=found["size"], etag=found["e_tag"] or "")
            return
        log.info(
            "%s: %s is too large for one copy; %d bytes pass through this machine", self.url, source, found["size"]
        )
        chunks = read_chunks(clients.requests, source)
        obstore.put(clients.bulk, target, chunks, chunk_size=part, max_concurrency=parts_in_flight(part))


def _check_is_ours(clients: Clients, key: str, etag: str | None, sent: int) -> None:
    """Raises: OvertakenError: at the key is not what was just sent."""
    found = obstore.head(clients.requests, key)
    tags = {tag.removeprefix("W/").strip('"') for tag in (etag, found["e_tag"]) if tag}  # some answer without quotes
    if found["size"] != sent or len(tags) > 1:
        raise OvertakenError(
            f"another upload overtook this one: found {found['size']:,} bytes with ETag {found['e_tag']}, expected "
            f"{sent:,} bytes with {etag}. Keys here have one writer: does another program write to this bucket? "
            "Try again; nothing that was committed is lost"
        )


def _raise_for_bucket(error: FileNotFoundError) -> None:
    """Re-raise if the bucket is missing: only a missing key means that there is no object."""
    if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
        raise error
