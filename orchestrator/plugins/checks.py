"""Checks of the stage kinds of others: mistakes of an author are messages that name the kind and the field."""

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.errors import PluginError
from orchestrator.stage import Plugin, Slot, StageKind

_KIND_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_ARTIFACT_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}@[1-9][0-9]*")


def checked_kinds(found: object, plugin: Plugin) -> list[StageKind[Any]]:
    """The stage kinds in `found`, marked with their plugin.

    Raises: PluginError: it is neither a stage kind nor a list or tuple of them, or one of them cannot work.
    """
    kinds = list(found) if isinstance(found, list | tuple) else [found]
    marked = []
    for kind in kinds:
        if not isinstance(kind, StageKind):
            raise PluginError(
                f"plugin {plugin}: found {type(kind).__name__}, expected a StageKind or a list or tuple of them"
            )
        problem = next(_problems(kind), None)
        if problem is not None:
            raise PluginError(f"plugin {plugin}: stage kind {kind.name!r}: {problem}")
        marked.append(dataclasses.replace(kind, plugin=plugin))
    return marked


def _problems(kind: StageKind[Any]) -> Iterator[str]:
    if not isinstance(kind.name, str) or not _KIND_NAME.fullmatch(kind.name):
        yield "name: expected lower-case letters, digits and '_', starting with a letter"
    if not isinstance(kind.version, int) or isinstance(kind.version, bool) or kind.version < 1:
        yield f"version: found {kind.version!r}, expected a whole number from 1"
    yield from _config_problems(kind.config)
    if not inspect.isfunction(kind.run) or "<" in kind.run.__qualname__:
        yield "run: expected a function at the top level of a module, so that its code can be followed"
    yield from _artifact_kind_problems("output", kind.output)
    if not isinstance(kind.inputs, Mapping):
        yield f"inputs: found {type(kind.inputs).__name__}, expected a mapping from names to Slot(...)"
        return
    for name, slot in kind.inputs.items():
        if not isinstance(slot, Slot):
            yield f"inputs.{name}: found {type(slot).__name__}, expected Slot(kind=...)"
        else:
            yield from _artifact_kind_problems(f"inputs.{name}", slot.kind)


def _config_problems(config: object) -> Iterator[str]:
    if not isinstance(config, type) or not dataclasses.is_dataclass(config):
        yield "config: expected a class decorated with @dataclass(frozen=True, kw_only=True)"
    elif not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]  # no public name tells
        yield f"config: {config.__name__} can be changed; decorate it with @dataclass(frozen=True, kw_only=True)"


def _artifact_kind_problems(where: str, kind: object) -> Iterator[str]:
    if not isinstance(kind, str) or not _ARTIFACT_KIND.fullmatch(kind):
        yield f"{where}: found {kind!r}, expected the kind of an artifact with the number of its format, 'name@1'"
