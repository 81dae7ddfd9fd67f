"""Reasons why a stage runs, as types, and the comparison of two identities that finds them."""

import typing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.artifact import JSON
from orchestrator.identity import canonical_json
from orchestrator.planning.defaults import complete_config

CodePolicy = typing.Literal["warn", "rerun", "fail"]
ABSENT = "(absent)"
MAX_VALUE_CHARACTERS = 60  # of a configuration value in a reason


@dataclass(frozen=True, kw_only=True)
class NeverMade:
    type: typing.Literal["never_made"] = "never_made"

    def __str__(self) -> str:
        return "never made"


@dataclass(frozen=True, kw_only=True)
class OutputMissing:
    """It was made with this identity, but is gone: deleted, or retracted as damaged."""

    type: typing.Literal["output_missing"] = "output_missing"

    def __str__(self) -> str:
        return "output missing"


@dataclass(frozen=True, kw_only=True)
class VersionChanged:
    before: int
    after: int
    type: typing.Literal["version"] = "version"

    def __str__(self) -> str:
        return f"version {self.before} -> {self.after}"


@dataclass(frozen=True, kw_only=True)
class ConfigChanged:
    place: str  # dotted path below the stage's config
    before: str  # as JSON, shortened
    after: str
    type: typing.Literal["config"] = "config"

    def __str__(self) -> str:
        return f"config.{self.place}: {self.before} -> {self.after}"


@dataclass(frozen=True, kw_only=True)
class InputChanged:
    """An existing input has another identity than last time."""

    slot: str
    added: int
    removed: int
    unit: typing.Literal["shards", "artifacts"]
    type: typing.Literal["input"] = "input"

    def __str__(self) -> str:
        if not self.added and not self.removed:
            return f"input {self.slot}: another order"
        return f"input {self.slot}: +{self.added} -{self.removed} {self.unit}"


@dataclass(frozen=True, kw_only=True)
class SourcesChanged:
    """Files that the stage reads from outside the store changed."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    type: typing.Literal["sources"] = "sources"

    def __str__(self) -> str:
        names = [*(f"+{name}" for name in self.added), *(f"-{name}" for name in self.removed)]
        names += [f"{name} differs" for name in self.changed]
        return f"source files: {_first_few(names)}"


@dataclass(frozen=True, kw_only=True)
class UpstreamReruns:
    stages: tuple[str, ...]
    type: typing.Literal["upstream_reruns"] = "upstream_reruns"

    def __str__(self) -> str:
        return f"upstream re-runs: {', '.join(self.stages)}"


@dataclass(frozen=True, kw_only=True)
class Forced:
    type: typing.Literal["forced"] = "forced"

    def __str__(self) -> str:
        return "forced"


@dataclass(frozen=True, kw_only=True)
class QuarantineRetried:
    """Its shards with items that were found to fail are made again; the others are kept."""

    items: int
    type: typing.Literal["quarantine_retried"] = "quarantine_retried"

    def __str__(self) -> str:
        return f"{self.items} quarantined item{'s are' if self.items > 1 else ' is'} tried again"


@dataclass(frozen=True, kw_only=True)
class CodeChanged:
    """The stage's source code changed but not its version. Under the policy `warn` the artifact is reused."""

    files: tuple[str, ...]
    policy: CodePolicy
    type: typing.Literal["code"] = "code"

    def __str__(self) -> str:
        return f"code changed (not in identity): {_first_few(self.files)}"


@dataclass(frozen=True, kw_only=True)
class Tainted:
    """The last output contains content that was taken down, or was made from an artifact that does."""

    takedown: str  # id
    type: typing.Literal["tainted"] = "tainted"

    def __str__(self) -> str:
        return f"tainted by takedown {self.takedown}"


@dataclass(frozen=True, kw_only=True)
class Continues:
    """It begins with the newest clean checkpoint of the training whose place it takes, not at step 0."""

    step: int
    fingerprint: str  # of that training
    type: typing.Literal["continues"] = "continues"

    def __str__(self) -> str:
        return f"continues from the clean checkpoint of step {self.step} of {self.fingerprint[:12]}"


@dataclass(frozen=True, kw_only=True)
class ConsumersExist:
    """The output is gone, but no stage that runs reads it."""

    type: typing.Literal["consumers_exist"] = "consumers_exist"

    def __str__(self) -> str:
        return "output missing, but everything made from it exists"


Reason = (
    NeverMade
    | OutputMissing
    | VersionChanged
    | ConfigChanged
    | InputChanged
    | SourcesChanged
    | UpstreamReruns
    | Forced
    | QuarantineRetried
    | CodeChanged
    | Tainted
    | Continues
    | ConsumersExist
)
REASON_TYPES: Mapping[str, type[Reason]] = {
    reason.__dataclass_fields__["type"].default: reason for reason in typing.get_args(Reason)
}


def own_changes(
    before: Mapping[str, JSON], after: Mapping[str, JSON], config_class: type | None = None
) -> list[Reason]:
    """The differences between two identity payloads of one kind, except for their inputs.

    `config_class`: of the kind, to show a default, which an identity leaves out, as the value that it is.
    """
    reasons: list[Reason] = []
    if before.get("version") != after.get("version"):
        reasons.append(VersionChanged(before=_as_int(before.get("version")), after=_as_int(after.get("version"))))
    configs = before.get("config"), after.get("config")
    if config_class is not None:
        configs = complete_config(config_class, configs[0]), complete_config(config_class, configs[1])
    reasons += _config_changes(*configs)
    sources = _source_changes(before.get("sources"), after.get("sources"))
    return [*reasons, sources] if sources else reasons


def sequence_changes(before: Sequence[str], after: Sequence[str]) -> tuple[int, int]:
    """(number added, number removed) of fingerprints; a change of order alone gives (0, 0)."""
    old, new = Counter(before), Counter(after)
    return (new - old).total(), (old - new).total()


def code_changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """Source files whose normalised text differs."""
    return tuple(sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)))


def value_changes(before: JSON, after: JSON) -> list[tuple[str, str, str]]:
    """(dotted path, value before, value after) of every value that differs; values as JSON, shortened."""
    old, new = dict(leaves(before, "")), dict(leaves(after, ""))
    paths = [*new, *(path for path in old if path not in new)]
    return [
        (path, _short(old, path), _short(new, path))
        for path in paths
        if path not in old or path not in new or not _same(old[path], new[path])
    ]


def _config_changes(before: JSON, after: JSON) -> list[Reason]:
    changes = value_changes(before, after)
    return [ConfigChanged(place=path, before=old, after=new) for path, old, new in changes]


def _source_changes(before: JSON, after: JSON) -> SourcesChanged | None:
    old = before if isinstance(before, dict) else {}
    new = after if isinstance(after, dict) else {}
    if old == new:
        return None
    return SourcesChanged(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(name for name in old.keys() & new.keys() if old[name] != new[name])),
    )


def leaves(value: JSON, path: str = "") -> Iterator[tuple[str, JSON]]:
    """Values with their dotted paths; a list counts as one value unless it contains objects."""
    if isinstance(value, dict) and (value or not path):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def _same(before: JSON, after: JSON) -> bool:
    return canonical_json(before) == canonical_json(after)


def _short(values: Mapping[str, JSON], path: str) -> str:
    if path not in values:
        return ABSENT
    text = canonical_json(values[path])
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 3]}..."


def _as_int(value: JSON) -> int:
    return value if isinstance(value, int) else -1


def _first_few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
