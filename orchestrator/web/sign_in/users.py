"""Who asks: a user with a role, as signed in by a token, by the proxy in front, or by being on this machine."""

from dataclasses import dataclass
from enum import IntEnum

from orchestrator.actor import Actor, current_actor


class Role(IntEnum):
    """Each role may do what those below it may."""

    NOBODY = 0  # has not signed in
    VIEWER = 1  # looks
    OPERATOR = 2  # starts, stops, approves, pins
    ADMIN = 3  # sees denied requests


@dataclass(frozen=True, kw_only=True)
class User:
    name: str
    role: Role
    address: str  # that the request came from
    by: str  # how it was signed in: "loopback", "token", "proxy"; empty: it was not

    def actor(self, action: str, reason: str = "") -> Actor:
        """Who goes on record for an action; on loopback it is the user of this process."""
        process = current_actor()
        command = ("illume", "serve", action)
        if self.by == "loopback":
            return Actor(user=process.user, host=process.host, token_name=process.token_name, command=command,
                         reason=reason)  # fmt: skip
        return Actor(user=self.name, host=self.address, token_name=self.name, command=command, reason=reason)


def local_user(address: str) -> User:
    """The one who sits at this machine: whoever can reach loopback can use the command line, too."""
    return User(name=current_actor().name, role=Role.ADMIN, address=address, by="loopback")


def nobody(address: str) -> User:
    return User(name="", role=Role.NOBODY, address=address, by="")
