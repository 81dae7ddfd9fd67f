"""All stage kinds by name: the built-in ones, those of installed packages, and those that the user or a plan names."""

import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.artifact import JSON
from orchestrator.errors import PluginError
from orchestrator.plugins.loading import installed_kinds, load_target
from orchestrator.stage import Plugin, StageKind

Kinds = Mapping[str, StageKind[Any]]


def all_kinds(built_in: Kinds, targets: Sequence[str] = ()) -> Kinds:
    """The built-in kinds, those of the entry points `illume.stages`, and those of `targets` (see `load_target`).

    Raises: PluginError: a plugin cannot be used, or two kinds have one name.
    """
    return with_kinds(with_kinds(built_in, installed_kinds()), kinds_of_targets(targets))


def kinds_of_targets(targets: Sequence[str]) -> list[StageKind[Any]]:
    return [kind for target in targets for kind in load_target(target)]


def with_kinds(kinds: Kinds, more: Iterable[StageKind[Any]]) -> Kinds:
    """Both, by name. A kind that is found twice, by two ways, counts once. Raises: PluginError: two have one name."""
    table = dict(kinds)
    for kind in more:
        known = table.setdefault(kind.name, kind)
        if known.run is not kind.run or known.config is not kind.config:
            raise PluginError(
                f"stage kind {kind.name!r}: found two of this name, {_origin(known)} and {_origin(kind)}; rename one, "
                "or leave out one of the plugins"
            )
    return table


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """The persisted form of a `Plugin`, with the kinds that were used of it."""

    target: str
    distribution: str
    version: str
    kinds: tuple[str, ...]

    @property
    def plugin(self) -> Plugin:
        return Plugin(target=self.target, distribution=self.distribution, version=self.version)


def plugins_to_json(kinds: Iterable[StageKind[Any]]) -> list[JSON]:
    """The records of the plugins that the kinds come from, as plain data."""
    found: dict[Plugin, set[str]] = {}
    for kind in kinds:
        if kind.plugin is not None:
            found.setdefault(kind.plugin, set()).add(kind.name)
    return [
        {**asdict(plugin), "kinds": list[JSON](sorted(names))}
        for plugin, names in sorted(found.items(), key=lambda item: item[0].target)
    ]


def kinds_of_plan(kinds: Kinds, recorded: Iterable[PluginRecord], *, any_version: bool = False) -> Kinds:
    """`kinds` and those of the plugins that a plan was made with, which are loaded here as they were there.

    Raises: PluginError: a plugin is missing here, or is of another version (accepted with `any_version`).
    """
    for record in recorded:
        plugin = record.plugin
        if any(name not in kinds for name in record.kinds):
            kinds = with_kinds(kinds, (kind for kind in _load(plugin) if kind.name in record.kinds))
        for name in record.kinds:
            if name not in kinds:
                raise PluginError(
                    f"plugin {plugin}: has no stage kind {name!r} on {socket.gethostname()}; {_fix(plugin)}"
                )
            if not any_version:
                _check_same(plugin, kinds[name])
    return kinds


def _load(plugin: Plugin) -> list[StageKind[Any]]:
    try:
        return load_target(plugin.target)
    except PluginError as error:
        raise PluginError(
            f"the plan was made with plugin {plugin}, which is missing on {socket.gethostname()}; {_fix(plugin)} "
            f"({error})"
        ) from error


def _check_same(plugin: Plugin, kind: StageKind[Any]) -> None:
    here = kind.plugin
    if here is None or (here.distribution, here.version) != (plugin.distribution, plugin.version):
        raise PluginError(
            f"the plan was made with plugin {plugin}, but stage kind {kind.name!r} is {_origin(kind)} on "
            f"{socket.gethostname()}; {_fix(plugin)}, or make a new plan with `illume run`"
        )


def _fix(plugin: Plugin) -> str:
    if plugin.distribution:
        return f"install it there: pip install {plugin.distribution}=={plugin.version}"
    return "put the same file there, or install it as a package"


def _origin(kind: StageKind[Any]) -> str:
    return "built in" if kind.plugin is None else f"of plugin {kind.plugin}"
