"""The file of tokens: who may sign in, and with which role.

    # name  role      SHA-256 of the token, or `-` for one whom the proxy in front signs in
    alice   operator  9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    bob     viewer    -

It is read again when it changes, so taking a line out signs out at once. It holds no token, only digests; the tokens
are random and long, so that a digest does not lead to one.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.documents.suggestions import expectation
from orchestrator.errors import RecipeError
from orchestrator.queue.names import check_name
from orchestrator.web.sign_in.users import Role

BY_PROXY = "-"
ROLES: Mapping[str, Role] = {role.name.lower(): role for role in Role if role is not Role.NOBODY}
OTHERS_MAY_WRITE = 0o022


@dataclass(frozen=True, kw_only=True)
class KnownUser:
    name: str
    role: Role
    token_sha256: str  # empty: signed in by the proxy only


@dataclass(kw_only=True)
class TokenFile:
    """The users of a file, as it is now."""

    path: Path
    _stamp: tuple[int, int] = (0, 0)
    _users: Mapping[str, KnownUser] = field(default_factory=dict)

    def users(self) -> Mapping[str, KnownUser]:
        """By name. Raises: RecipeError: the file cannot be read, or a line of it is no user."""
        try:
            found = self.path.stat()
            stamp = (found.st_mtime_ns, found.st_ino)
            if stamp != self._stamp:
                self._users, self._stamp = parse_users(self.path.read_text(), str(self.path)), stamp
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"--token-file {self.path}: cannot be read: {error}") from error
        if found.st_mode & OTHERS_MAY_WRITE:
            raise RecipeError(f"--token-file {self.path}: others may write it; `chmod go-w {self.path}`")
        return self._users

    def user_of(self, token: str) -> KnownUser | None:
        """Whose token it is; None: nobody's."""
        digest = token_sha256(token)
        found = [user for user in self.users().values() if hmac.compare_digest(user.token_sha256, digest)]
        return found[0] if found else None


def parse_users(text: str, where: str) -> dict[str, KnownUser]:
    """Raises: RecipeError: names the line."""
    users: dict[str, KnownUser] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        place = f"{where}: line {number}"
        if len(words) != 3:
            raise RecipeError(f"{place}: found {len(words)} words, expected `NAME ROLE SHA256`")
        name, role, digest = words
        if role not in ROLES:
            raise RecipeError(f"{place}: role {role!r}: {expectation(role, ROLES)}")
        if digest != BY_PROXY and (len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef")):
            raise RecipeError(f"{place}: expected 64 hexadecimal digits, the SHA-256 of a token, or `-`")
        if name in users:
            raise RecipeError(f"{place}: {name!r} is given twice")
        if digest != BY_PROXY and any(user.token_sha256 == digest.lower() for user in users.values()):
            raise RecipeError(f"{place}: the token of {name!r} is another user's too; each needs one of its own")
        users[name] = KnownUser(name=name, role=ROLES[role], token_sha256=digest.lower().replace(BY_PROXY, ""))
    return users


def new_token(name: str, role: str) -> tuple[str, str]:
    """(a token, the line of the file for it). Raises: RecipeError: no such role, or no name for a line of the file."""
    check_name(name, "--new-token NAME:ROLE: NAME")
    token = secrets.token_urlsafe(32)
    line = f"{name} {role} {token_sha256(token)}"
    parse_users(line, "--new-token")
    return token, line


def token_sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
