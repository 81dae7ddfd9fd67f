"""Actors as events and records of changes name them: without secrets, the command line as one text."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

from orchestrator.actor import Actor, current_actor
from orchestrator.artifact import JSON
from orchestrator.history.events import Event
from orchestrator.installation.version import version_text
from orchestrator.redaction.masking import mask_secrets, mask_text

ACTOR_FIELD = "actor"  # of the fields of an event


@dataclass(frozen=True, kw_only=True)
class ActorRecord:
    """The persisted form of an `Actor`."""

    user: str
    host: str
    token_name: str = ""
    command: str = ""
    reason: str = ""
    program: str = ""  # version and commit of this package

    @property
    def name(self) -> str:
        """Empty for what was recorded without an actor."""
        return self.token_name or "@".join(filter(None, (self.user, self.host)))


def actor_record(actor: Actor) -> ActorRecord:
    return ActorRecord(
        user=mask_text(actor.user),
        host=mask_text(actor.host),
        token_name=mask_text(actor.token_name),
        command=masked_command(actor.command),
        reason=mask_text(actor.reason),
        program=version_text(),
    )


def actor_fields() -> dict[str, JSON]:
    """The actor of now, for the fields of an event; what is empty is left out."""
    return dict(_actor_fields(current_actor()))


@lru_cache(maxsize=64)  # of each event
def _actor_fields(actor: Actor) -> Mapping[str, JSON]:
    return {name: value for name, value in asdict(actor_record(actor)).items() if value}


def actor_of(event: Event) -> ActorRecord | None:
    """Who caused an event; None if it does not say, as those of older versions."""
    fields = event.fields.get(ACTOR_FIELD)
    if not isinstance(fields, dict):
        return None
    known = {name: str(value) for name, value in fields.items() if name in ActorRecord.__dataclass_fields__}
    return ActorRecord(**{"user": "", "host": "", **known})


def masked_command(arguments: Sequence[str]) -> str:
    """A command line as a shell reads it, with `***` for values of options and settings whose names denote secrets."""
    masked: list[str] = []
    option = ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals:
            masked.append(f"{name}={_masked(name.rpartition('.')[2], value)}")
        else:
            masked.append(_masked(option, argument))
        option = argument if argument.startswith("--") and not equals else ""
    return shlex.join(masked)


def _masked(name: str, value: str) -> str:
    masked = mask_secrets({name.lstrip("-"): value})
    assert isinstance(masked, dict), "masking keeps the shape of a mapping"
    return str(next(iter(masked.values())))
