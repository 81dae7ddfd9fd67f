"""Credentials of S3 from the files of a profile, which `obstore` does not read.

Keys in the environment, web identities, containers and instances are its own business: it renews those itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from orchestrator.errors import StoreError

ASK_AGAIN_AFTER = timedelta(minutes=10)  # files may have been written anew; temporary keys renew themselves in time
_OWN_SOURCES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_FILES = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}


def uses_profile(environment: Mapping[str, str]) -> bool:
    """Whether the credentials are those of a profile: the environment has none, and there is a file that may."""
    if any(environment.get(name) for name in _OWN_SOURCES):
        return False
    files = [Path(environment.get(name) or default).expanduser() for name, default in _FILES.items()]
    return bool(environment.get("AWS_PROFILE")) or any(file.is_file() for file in files)


@dataclass(frozen=True)
class ProfileCredentials:
    """A credential provider for `obstore`: asks the profile anew each time, so files that changed are seen."""

    config: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> dict[str, Any]:
        from botocore.session import Session  # late: only stores with a profile need it

        found = Session().get_credentials()
        if found is None:
            raise StoreError("found no credentials in the profile; expected keys, a role or an SSO login in it")
        keys = found.get_frozen_credentials()
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": datetime.now(UTC) + ASK_AGAIN_AFTER,
        }
