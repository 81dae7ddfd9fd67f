from pathlib import Path

import pytest

from orchestrator.backends.credentials import ProfileCredentials, uses_profile
from orchestrator.errors import StoreError


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    return {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "absent"), "AWS_CONFIG_FILE": str(tmp_path / "absent")}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"AWS_PROFILE": "team"}, True),
        ({"AWS_PROFILE": "team", "AWS_ACCESS_KEY_ID": "x"}, False),
        ({"AWS_PROFILE": "team", "AWS_WEB_IDENTITY_TOKEN_FILE": "/token"}, False),
    ],
)
def test_a_profile_is_used_where_the_environment_has_no_keys(nowhere, environment, expected: bool) -> None:
    assert uses_profile({**nowhere, **environment}) is expected


def test_a_file_of_keys_is_a_profile(nowhere, tmp_path: Path) -> None:
    (tmp_path / "absent").write_text("[default]\n")
    assert uses_profile(nowhere)


def test_keys_are_read_from_the_file_each_time(nowhere, tmp_path: Path, monkeypatch) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for variable, file in nowhere.items():
        monkeypatch.setenv(variable, file)
    credentials = ProfileCredentials()
    with pytest.raises(StoreError, match="found no credentials in the profile"):
        credentials()
    for name in ("first", "second"):
        keys = f"aws_access_key_id = {name}\naws_secret_access_key = b\naws_session_token = c\n"
        (tmp_path / "absent").write_text(f"[default]\n{keys}")
        found = credentials()
        assert (found["access_key_id"], found["secret_access_key"], found["token"]) == (name, "b", "c")
