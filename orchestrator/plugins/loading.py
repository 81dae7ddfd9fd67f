"""Loads the stage kinds of other packages and files, checks them, and marks each with its `Plugin`.

Only code that is already on this machine is imported: a plan in the store names its plugins, it does not carry them.
"""

import hashlib
import importlib
import importlib.util
import logging
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, packages_distributions, version
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from orchestrator.errors import PluginError
from orchestrator.plugins.checks import checked_kinds
from orchestrator.stage import Plugin, StageKind

log = logging.getLogger(__name__)

STAGES_GROUP = "illume.stages"  # entry points: "module:NAME", where NAME is a `StageKind` or a list of them
FILE_MODULE_PREFIX = "illume_plugin_"  # of the names that plugin files get as modules


def installed_kinds() -> list[StageKind[Any]]:
    """The stage kinds of the installed packages with entry points in the group `illume.stages`.

    Raises: PluginError: one cannot be imported, or is no stage kind.
    """
    found: list[StageKind[Any]] = []
    for point in sorted(entry_points(group=STAGES_GROUP), key=lambda point: (_distribution(point), point.name)):
        plugin = Plugin(target=point.value, distribution=_distribution(point), version=_version(point))
        found += checked_kinds(_imported(plugin, point.load), plugin)
    return found


def load_target(target: str) -> list[StageKind[Any]]:
    """The stage kinds of "module:NAME" or "path/to/file.py:NAME".

    Raises: PluginError: it is not of this form, cannot be imported, or is no stage kind.
    """
    module, _, name = target.rpartition(":")
    if not module or not name.isidentifier():
        raise PluginError(f"plugin {target!r}: expected 'module:NAME' or './file.py:NAME', where NAME is a StageKind")
    if is_file_target(target):
        file = Path(module).absolute()
        plugin = Plugin(target=f"{file}:{name}", version=_file_version(file))
        loaded = _imported(plugin, lambda: _module_of_file(file, plugin.version))
    else:
        loaded = _imported(Plugin(target=target), lambda: importlib.import_module(module))
        plugin = _plugin_of_module(target, module, loaded)
    if not hasattr(loaded, name):  # the name is the user's
        raise PluginError(f"plugin {plugin.target}: {module} has no {name!r}; expected a StageKind or a list of them")
    return checked_kinds(getattr(loaded, name), plugin)


def file_of_module(module: str) -> Path | None:
    """The file of a module that was loaded from a plugin file, for `load_file` in another process; None: of others."""
    found = sys.modules[module].__file__ if module.startswith(FILE_MODULE_PREFIX) else None
    return Path(found) if found else None


def load_file(file: Path) -> ModuleType:
    """A plugin file as a module, of one name in all processes while the file is unchanged. Raises: PluginError."""
    plugin = Plugin(target=f"{file}:", version=_file_version(file))
    module: ModuleType = _imported(plugin, lambda: _module_of_file(file, plugin.version))
    return module


def is_file_target(target: str) -> bool:
    module = target.rpartition(":")[0]
    return module.endswith(".py") or "/" in module or "\\" in module


def _imported(plugin: Plugin, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        log.info("plugin %s cannot be imported", plugin.target, exc_info=error)
        raise PluginError(
            f"plugin {plugin}: cannot be imported: {_cause(error)}; {_next_step(plugin, error)}"
        ) from error


def _cause(error: BaseException) -> str:
    """The error in one line, with the line of the plugin that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames and frames[-1].filename != __file__ else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def _next_step(plugin: Plugin, error: BaseException) -> str:
    if plugin.distribution:
        return f"repair it, or remove it with `pip uninstall {plugin.distribution}`"
    module = plugin.target.rpartition(":")[0]
    if is_file_target(plugin.target):
        return "repair the file"
    near = Path(module.replace(".", "/") + ".py")
    if isinstance(error, ModuleNotFoundError) and near.is_file():
        return f"a file that is not installed is given by its path: ./{near}:{plugin.target.rpartition(':')[2]}"
    return "install its package, or give a file by its path, ./file.py:NAME"


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else ""


def _version(point: EntryPoint) -> str:
    return point.dist.version if point.dist else ""


def _plugin_of_module(target: str, module: str, loaded: ModuleType) -> Plugin:
    """The plugin of an imported module: of its distribution, or of its file if it belongs to none."""
    for distribution in packages_distributions().get(module.partition(".")[0], ()):
        try:
            return Plugin(target=target, distribution=distribution, version=version(distribution))
        except PackageNotFoundError:  # its metadata is damaged
            continue
    return Plugin(target=target, version=_file_version(Path(loaded.__file__)) if loaded.__file__ else "")


def _file_version(file: Path) -> str:
    """Stands in for a version where there is none: the digest of the file. Raises: PluginError: cannot be read."""
    try:
        return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"
    except OSError as error:
        raise PluginError(f"plugin {file}: cannot be read: {error.strerror or error}; give an existing file") from error


class _SourceLoader(SourceFileLoader):
    """Compiles the file as it is now, and leaves no `__pycache__` beside it."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _module_of_file(file: Path, file_version: str) -> ModuleType:
    """The file as a module, under a name of its own; imported again once the file has changed."""
    name = f"{FILE_MODULE_PREFIX}{file.stem}_{hashlib.sha256(f'{file} {file_version}'.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file, loader=_SourceLoader(name, str(file)))
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin {file}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
