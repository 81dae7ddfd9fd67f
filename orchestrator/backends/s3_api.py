"""The requests of S3 that `obstore` does not have: copies in parts, and multipart uploads that nobody finished."""

import functools
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from orchestrator.backends.bucket import BULK_STALL_S, endpoint_of, is_anonymous, parse_address
from orchestrator.backends.transfers import MIB, part_bytes
from orchestrator.errors import StoreError

log = logging.getLogger(__name__)

COPY_PART_BYTES = 512 * MIB  # copied inside the store, so that only requests count
PARALLEL_COPIES = 8
VIRTUAL_HOSTS_VARIABLE = "AWS_VIRTUAL_HOSTED_STYLE_REQUEST"  # as `obstore` reads it; else the path names the bucket

_NOT_KNOWN_THERE = ("NotImplemented", "MethodNotAllowed", "501", "405")


@functools.cache
def _loader() -> Any:
    """The descriptions of the requests, which take most of the time to make a client."""
    from botocore.loaders import create_loader

    return create_loader()


@dataclass(frozen=True, kw_only=True)
class UnfinishedUpload:
    """A multipart upload that was begun and neither completed nor aborted. Its parts cost storage; no key shows it."""

    key: str
    upload_id: str
    begun_s: float  # seconds since 1970, by the store's clock
    bytes: int  # of the parts that have arrived


@dataclass(frozen=True, kw_only=True)
class OldVersion:
    """A version of an object that was replaced or deleted. Whoever names it can read it."""

    key: str
    version_id: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class S3Api:
    """Requests to one bucket, below the prefix of a store's address."""

    url: str
    bucket: str
    prefix: str  # "" or with a "/" at its end
    client: Any = field(repr=False)  # of botocore, which has no types

    @classmethod
    def of(cls, url: str, environment: Mapping[str, str] = os.environ) -> "S3Api":
        """Sends no request."""
        from botocore import UNSIGNED
        from botocore.config import Config  # late: a second; few stores ever need it
        from botocore.session import Session

        address, options = parse_address(url)
        parts = urlsplit(address)
        prefix = unquote(parts.path).strip("/")
        is_virtual = environment.get(VIRTUAL_HOSTS_VARIABLE, "").lower() in ("1", "true")
        config = Config(
            s3={"addressing_style": "virtual" if is_virtual else "path"},
            retries={"mode": "standard", "total_max_attempts": 7},
            read_timeout=BULK_STALL_S,
            connect_timeout=5,
            signature_version=UNSIGNED if is_anonymous(options, environment) else None,
        )
        endpoint = endpoint_of(options, environment)
        region = options.get("region") or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
        session = Session()
        session.register_component("data_loader", _loader())
        client = session.create_client("s3", region_name=region or "us-east-1", endpoint_url=endpoint, config=config)
        return cls(url=url, bucket=parts.netloc, prefix=f"{prefix}/" if prefix else "", client=client)

    def copy_in_parts(self, source: str, target: str, *, size: int, etag: str) -> None:
        """Copy an object of any size inside the store. `etag`: of the version to copy; "": the store gives none.

        Raises: StoreError: the store refused; nothing is left behind, or `unfinished_uploads` lists it.
        """
        part = max(part_bytes(size), COPY_PART_BYTES)
        starts = range(0, size, part)
        where = {"Bucket": self.bucket, "Key": f"{self.prefix}{target}"}
        version = {"CopySourceIfMatch": etag} if etag else {}
        with self._explained(f"cannot copy '{source}' to '{target}' in parts"):
            upload = {**where, "UploadId": self.client.create_multipart_upload(**where)["UploadId"]}

            def copy(number: int) -> dict[str, Any]:
                start = starts[number]
                answer = self.client.upload_part_copy(
                    **upload,
                    PartNumber=number + 1,
                    CopySource={"Bucket": self.bucket, "Key": f"{self.prefix}{source}"},
                    **version,
                    CopySourceRange=f"bytes={start}-{min(start + part, size) - 1}",
                )
                return {"PartNumber": number + 1, "ETag": answer["CopyPartResult"]["ETag"]}

            try:
                with ThreadPoolExecutor(PARALLEL_COPIES) as threads:
                    parts = list(threads.map(copy, range(len(starts))))
                self.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            except BaseException:
                with suppress(Exception):  # the first error is the one to report; the collector finds the upload
                    self.client.abort_multipart_upload(**upload)
                raise

    def unfinished_uploads(self) -> Iterator[UnfinishedUpload]:
        """The multipart uploads below the store's prefix that were begun and not ended."""
        with self._explained("cannot list unfinished uploads"):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self.prefix)
            for page in pages:
                for found in page.get("Uploads", ()):
                    yield UnfinishedUpload(
                        key=found["Key"].removeprefix(self.prefix),
                        upload_id=found["UploadId"],
                        begun_s=found["Initiated"].timestamp(),
                        bytes=self._bytes_of(found["Key"], found["UploadId"]),
                    )

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        """Delete the parts of an unfinished upload. Does nothing if somebody else did."""
        with self._explained(f"cannot abort the upload of '{upload.key}'"):
            try:
                self.client.abort_multipart_upload(
                    Bucket=self.bucket, Key=f"{self.prefix}{upload.key}", UploadId=upload.upload_id
                )
            except self.client.exceptions.NoSuchUpload:
                return

    def keeps_versions(self) -> bool:
        """Whether deleted objects stay as old versions; False also if the credentials may not ask."""
        try:
            return self._versioning() == "Enabled"
        except StoreError as error:
            log.debug("%s: whether the bucket keeps versions is unknown: %s", self.url, error)
            return False

    def has_kept_versions(self) -> bool:
        """Whether deleted objects stay as old versions, or did so once. Raises: StoreError: it does not say."""
        return bool(self._versioning())

    def old_versions(self, folder: str) -> Iterator[OldVersion]:
        """The versions of all objects below a folder that are not the present ones. Raises: StoreError."""
        with self._explained(f"cannot list the old versions below '{folder}'"):
            pages = self.client.get_paginator("list_object_versions").paginate(
                Bucket=self.bucket, Prefix=f"{self.prefix}{folder}/"
            )
            for page in pages:
                for found in page.get("Versions", ()):
                    if not found["IsLatest"]:
                        key = found["Key"].removeprefix(self.prefix)
                        yield OldVersion(key=key, version_id=found["VersionId"], bytes=int(found["Size"]))

    def _versioning(self) -> str:
        """ "Enabled", "Suspended", or "": it never kept versions, or the store knows none. Raises: StoreError."""
        from botocore.exceptions import ClientError

        with self._explained("whether the bucket keeps versions is unknown"):
            try:
                return str(self.client.get_bucket_versioning(Bucket=self.bucket).get("Status") or "")
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in _NOT_KNOWN_THERE:
                    return ""
                raise

    def _bytes_of(self, key: str, upload_id: str) -> int:
        pages = self.client.get_paginator("list_parts").paginate(Bucket=self.bucket, Key=key, UploadId=upload_id)
        try:
            return sum(int(part["Size"]) for page in pages for part in page.get("Parts", ()))
        except self.client.exceptions.NoSuchUpload:  # it was completed or aborted meanwhile
            return 0

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise StoreError(
                f"{self.url}: {what}: {error}. Check the rights of the credentials on the bucket"
            ) from error
