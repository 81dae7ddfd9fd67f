"""A store in a bucket of an object store (S3, GCS, Azure), through `obstore`.

Rule: a create that failed or was refused may still have taken effect, so it is always read back.
"""

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import ObjectStore as Bucket
from obstore.store import from_url

from orchestrator.errors import RecipeError, StoreError
from orchestrator.store.objects import CHUNK_BYTES, MAX_RECORD_BYTES, Digest, StoredObject, check_key

log = logging.getLogger(__name__)

REMOTE_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
OPTIONS = ("endpoint", "region")  # allowed in the query of an address
SMALL_BYTES = 8 * 1024**2  # up to this size one request; above it, multipart in parts of this size
CREATE_WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8)  # between tries, as concurrent creates answer "conflict, try again"

CLIENT = {"timeout": timedelta(seconds=120), "connect_timeout": timedelta(seconds=5)}
RETRY = {  # of idempotent requests; an unreachable store is reported after about 10 s
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=90),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
}


@dataclass(frozen=True)
class ObjectStore:
    """Objects of one bucket below the prefix of the address."""

    url: str
    bucket: Bucket = field(repr=False, compare=False)

    @classmethod
    def connect(cls, url: str) -> "ObjectStore":
        """The store at an address. Sends no request: the first call of a method does.

        Raises:
            RecipeError: the address holds a password, an unknown option, or is refused by `obstore`.
        """
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if "@" in parts.netloc or "@" in options.get("endpoint", ""):
            raise RecipeError("store: found a name or password in the address; expected credentials in the environment")
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise RecipeError(
                f"store: {parts.scheme}://{parts.netloc}: found option '{unknown[0]}', expected {' or '.join(OPTIONS)}"
            )
        client: Any = {**CLIENT, "allow_http": options.get("endpoint", "").startswith("http://")}
        config: Any = options
        retry: Any = RETRY
        try:
            bucket = from_url(
                parts._replace(query="").geturl(), config=config, client_options=client, retry_config=retry
            )
        except (BaseError, ValueError) as error:
            raise RecipeError(f"store: {url}: {_first_line(error)}") from error
        return cls(url, bucket)

    def __reduce__(self) -> tuple[Any, ...]:
        return (ObjectStore.connect, (self.url,))

    @property
    def is_local(self) -> bool:
        return False

    def local(self, key: str) -> Path | None:
        return None

    def put_new(self, key: str, data: bytes) -> bool:
        """Repeats a create only while reading back finds no object, that is, while no writer has won."""
        with self._explain_errors(key, "write"):
            for wait_s in (*CREATE_WAITS_S, None):
                try:
                    obstore.put(self.bucket, check_key(key), data, mode="create", use_multipart=False)
                except (PermissionDeniedError, UnauthenticatedError):
                    raise
                except BaseError as error:
                    found = self._read_back(key, error)
                    if found is not None:
                        return found == data
                    if wait_s is None:
                        raise
                    log.info("create of %s failed and no object exists yet (%s), trying again", key, _first_line(error))
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
        with self._explain_errors(key, "read"):
            try:
                found = obstore.get(self.bucket, check_key(key))
                if found.meta["size"] <= MAX_RECORD_BYTES:
                    return bytes(found.bytes())
            except FileNotFoundError as error:
                _raise_for_bucket(error)
                return None
        raise StoreError(f"{self.url}: '{key}': found more than {MAX_RECORD_BYTES:,} bytes, expected a record")

    def list(self, prefix: str) -> Iterator[StoredObject]:
        with self._explain_errors(prefix, "list"):
            found = [item for page in obstore.list(self.bucket, check_key(prefix), chunk_size=1000) for item in page]
        for item in sorted(found, key=lambda item: item["path"]):
            yield StoredObject(key=item["path"], bytes=item["size"], modified_s=item["last_modified"].timestamp())

    def folders(self, prefix: str) -> tuple[str, ...]:
        with self._explain_errors(prefix, "list"):
            found = obstore.list_with_delimiter(self.bucket, check_key(prefix))
        return tuple(sorted(folder.rstrip("/").rpartition("/")[2] for folder in found["common_prefixes"]))

    def delete(self, key: str) -> None:
        with self._explain_errors(key, "delete"):
            try:
                obstore.delete(self.bucket, check_key(key))
            except FileNotFoundError as error:
                _raise_for_bucket(error)

    def upload(self, path: Path, key: str) -> Digest:
        hasher, size = hashlib.sha256(), 0

        def chunks() -> Iterator[bytes]:
            nonlocal size
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    hasher.update(chunk)
                    size += len(chunk)
                    yield chunk

        with self._explain_errors(key, f"copy {path} to"):
            if path.stat().st_size <= SMALL_BYTES:
                obstore.put(self.bucket, check_key(key), b"".join(chunks()), use_multipart=False)
            else:
                obstore.put(self.bucket, check_key(key), chunks(), chunk_size=SMALL_BYTES)
        return Digest(bytes=size, sha256=hasher.hexdigest())

    def download(self, key: str, path: Path) -> Digest | None:
        hasher, size = hashlib.sha256(), 0
        with self._explain_errors(key, f"copy to {path} from"):
            found = self._open(key)
            if found is None:
                return None
            with path.open("xb") as file:
                for chunk in found:
                    hasher.update(chunk)
                    size += file.write(chunk)
        return Digest(bytes=size, sha256=hasher.hexdigest())

    def digest(self, key: str) -> Digest | None:
        hasher, size = hashlib.sha256(), 0
        with self._explain_errors(key, "read"):
            found = self._open(key)
            if found is None:
                return None
            for chunk in found:
                hasher.update(chunk)
                size += len(memoryview(chunk))
        return Digest(bytes=size, sha256=hasher.hexdigest())

    def link(self, source: str, target: str) -> None:
        with self._explain_errors(target, f"copy '{source}' to"):
            obstore.copy(self.bucket, check_key(source), check_key(target))

    def _open(self, key: str) -> Any:
        try:
            return obstore.get(self.bucket, check_key(key)).stream(min_chunk_size=CHUNK_BYTES)
        except FileNotFoundError as error:
            _raise_for_bucket(error)
            return None

    @contextmanager
    def _explain_errors(self, key: str, action: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            advice = "Check the address, the network and that the bucket exists"
            if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
                advice = "Check the credentials in the environment and their rights on the bucket"
            raise StoreError(f"{self.url}: cannot {action} '{key}': {_first_line(error)}. {advice}") from error


def _raise_for_bucket(error: FileNotFoundError) -> None:
    """Re-raise if the bucket is missing: only a missing key means that there is no object."""
    if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
        raise error


def _first_line(error: BaseException) -> str:
    """The part of obstore's message before its debug dump, without the response body."""
    text = str(error).split("\n\nDebug source", maxsplit=1)[0]
    return " ".join(text.split())[:400]
