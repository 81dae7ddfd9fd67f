import errno
from pathlib import Path

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from orchestrator.backends.bucket import endpoint_of, explained, is_anonymous, parse_address
from orchestrator.errors import RetainedError, StoreError
from orchestrator.store.store import Store, open_store

EXPIRED = "<Code>ExpiredToken</Code><Message>The provided token has expired.</Message>"


def refuse_key(name: str) -> dict[tuple[str, str], str]:
    return {(method, f"Credential={name}/"): EXPIRED for method in ("GET", "PUT", "POST", "HEAD", "DELETE")}


def test_credentials_that_expire_in_the_middle_are_asked_for_anew(s3, s3_store: Store, monkeypatch, tmp_path) -> None:
    store = open_store(s3_store.url)
    assert store.put_new("before", b"1")
    s3.refusals = refuse_key("test")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "fresh")
    assert store.get("before") == b"1"
    assert store.put_new("after", b"2")
    (tmp_path / "file").write_bytes(b"3")
    store.upload(tmp_path / "file", "file")
    assert [item.key for item in store.list("x")] == []
    store.delete("after")
    assert store.get("after") is None


def test_without_new_credentials_the_sentence_says_so(s3, s3_store: Store) -> None:
    s3.refusals = refuse_key("test")
    with pytest.raises(
        StoreError, match=r"cannot read 'a'.*ExpiredToken.*The credentials have expired and asking anew"
    ):
        s3_store.get("a")


def test_a_profile_that_is_written_anew_is_read_anew(s3, s3_store: Store, monkeypatch, tmp_path: Path) -> None:
    def write(name: str) -> None:
        keys = f"aws_access_key_id = {name}\naws_secret_access_key = secret\n"
        (tmp_path / "credentials").write_text(f"[default]\n{keys}")

    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    write("first")
    store = open_store(s3_store.url)
    assert store.put_new("a", b"1")
    s3.refusals = refuse_key("first")
    write("second")
    assert store.get("a") == b"1"


def skewed(ours: str, theirs: str) -> PermissionDeniedError:
    times = f"<RequestTime>{ours}</RequestTime><ServerTime>{theirs}</ServerTime>"
    return PermissionDeniedError(f"403 Forbidden: <Error><Code>RequestTimeTooSkewed</Code>{times}</Error>")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (skewed("20260101T000000Z", "2026-01-01T00:17:00Z"), "clock of this machine is 17 minutes behind the store's"),
        (skewed("20260101T010000Z", "2026-01-01T00:17:00Z"), "clock of this machine is 43 minutes ahead of the store"),
        (skewed("", ""), "The clock of this machine differs from the store's by more than it accepts: set it by NTP"),
        (PermissionDeniedError("403: AccessDenied"), "Check the credentials in the environment and their rights"),
        (
            GenericError(
                "400: Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock"
            ),
            "The bucket locks objects and wants their checksums: set AWS_CHECKSUM_ALGORITHM=SHA256",
        ),
        (GenericError("dns"), "Check the address, the network and that the bucket exists"),
        (OSError(errno.ENOSPC, "full"), "No space left on device. Free some space"),
        (ConnectionError("cut"), "Check the address, the network"),
    ],
)
def test_what_goes_wrong_has_one_sentence_with_advice(error: Exception, expected: str) -> None:
    with (
        pytest.raises(StoreError, match=rf"^s3://b: cannot read 'k': .*{expected}") as caught,
        explained("s3://b", "k", "read"),
    ):
        raise error
    assert not isinstance(caught.value, RetainedError)


@pytest.mark.parametrize(
    "answer",
    [
        "403 <Code>AccessDenied</Code><Message>Object is WORM protected and cannot be overwritten</Message>",
        "403 <Code>AccessDenied</Code><Message>Access Denied because object protected by object lock.</Message>",
        "403 <Code>RetentionPolicyNotMet</Code>",
        "409 <Code>BlobImmutableDueToPolicy</Code>",
    ],
)
def test_an_object_that_the_bucket_keeps_is_told_from_missing_rights(answer: str) -> None:
    with (
        pytest.raises(RetainedError, match=r"cannot delete 'k'.*The bucket keeps it for a time"),
        explained("s3://b", "k", "delete"),
    ):
        raise PermissionDeniedError(answer)


def test_an_endpoint_that_only_speaks_path_style_is_enough(s3, s3_store: Store) -> None:
    """The double answers by path alone, at an address of numbers, below which no bucket can have a name of its own."""
    assert "127.0.0.1" in s3.endpoint
    assert s3_store.put_new("a", b"1")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "S3_ENDPOINT_URL"])
def test_a_server_of_the_environment_is_used_over_plain_http(s3, s3_store: Store, monkeypatch, name: str) -> None:
    address, options = parse_address(s3_store.url)
    monkeypatch.setenv(name, options["endpoint"])
    store = open_store(f"{address}/by-environment?region=us-east-1")
    assert store.put_new("a", b"1")
    assert store.get("a") == b"1"


def test_the_most_particular_name_of_the_server_wins() -> None:
    environment = {"AWS_ENDPOINT_URL": "http://general", "AWS_ENDPOINT_URL_S3": "http://s3"}
    assert endpoint_of({}, environment) == "http://s3"
    assert endpoint_of({"endpoint": "http://given"}, environment) == "http://given"
    assert endpoint_of({}, {}) is None
    assert endpoint_of({}, {"S3_ENDPOINT": "minio:9000", "AWS_ALLOW_HTTP": "true"}) == "http://minio:9000"


def test_a_public_bucket_is_asked_without_keys(s3, s3_store: Store, monkeypatch) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    assert open_store(f"{s3_store.url}&anonymous=true").get("a") is None  # an answer: no keys are searched for
    assert is_anonymous({}, {"AWS_SKIP_SIGNATURE": "true"})
    assert is_anonymous({"anonymous": ""}, {})
    assert not is_anonymous({"anonymous": "false"}, {"AWS_SKIP_SIGNATURE": "1"})
    assert not is_anonymous({}, {})


def test_signs_in_a_prefix_are_part_of_it(s3, s3_store: Store) -> None:
    address, options = parse_address(s3_store.url)
    store = open_store(f"{address}/set #1?endpoint={options['endpoint']}&region=us-east-1")
    assert store.put_new("a", b"1")
    assert s3_store.get("set #1/a") == b"1"
