"""The digest of the code behind a stage: of the normalised source files of its first-party import closure.

First-party are this project's packages and, for a kind of others, the packages of its own distribution, or its file.
The closure is found by parsing files, never by importing them. The kernel is left out: it decides where and when work
runs, not what it outputs. The digest is not identity; `plan` compares it and warns.

`grimp`, the graph behind import-linter, finds the same closures, and a test compares them. It cannot replace this file:
one syntax error anywhere ends its whole graph, and it reads only packages that can be imported.
"""

import ast
import hashlib
import importlib.util
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.identity import canonical_json
from orchestrator.stage import StageKind

CODE_PACKAGES = ("stages", "data_pipelines", "models")  # the packages whose code can change an output
KERNEL_PACKAGES = {"orchestrator"}


@dataclass(frozen=True, kw_only=True)
class CodeDigest:
    """The source files behind an output and their digests."""

    files: Mapping[str, str] = field(default_factory=dict)  # path below the root -> sha256 of the normalised source

    @property
    def digest(self) -> str:
        return hashlib.sha256(canonical_json(self.files).encode()).hexdigest()


def code_of(kind: StageKind[Any]) -> CodeDigest:
    """The code digest of a stage kind: its `run`, with all that it imports of its own distribution and of ours."""
    own = {kind.run.__module__.partition(".")[0]} - KERNEL_PACKAGES
    if kind.plugin is not None and kind.plugin.distribution:
        own |= _top_levels(kind.plugin.distribution)
    places = {package: _places(package) for package in (*CODE_PACKAGES, *sorted(own))}
    return _digest(kind.run.__module__, {package: found for package, found in places.items() if found})


def code_digest(module: str, root: Path, packages: Collection[str] = CODE_PACKAGES) -> CodeDigest:
    """Digest of a module and of everything in `packages` below `root` that it imports, directly or indirectly.

    A package's `__init__.py` counts only if a name is imported from it, not if it is only a parent of a module.
    Files that cannot be parsed count with their raw bytes. A module outside `packages` has an empty digest.
    """
    return _digest(module, {package: (root / package,) for package in packages})


Places = Mapping[str, tuple[Path, ...]]  # package or module at the top level -> its folders, or its one file


def _digest(module: str, places: Places) -> CodeDigest:
    pending, seen = [module], dict[str, str]()
    while pending:
        found = _module_file(pending.pop(), places)
        if found is not None and found[0] not in seen:
            name, file = found
            status = file.stat()
            stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            seen[name], imported = _read(file, stamp, name)
            pending += imported
    return CodeDigest(files=dict(sorted(seen.items())))


def _places(package: str) -> tuple[Path, ...]:
    """Where a package or module is installed, as it is imported: in place, as an editable one, or as a single file."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a program without a package, such as `__main__`
        return ()
    if spec is None:
        return ()
    if spec.submodule_search_locations:
        return tuple(Path(folder) for folder in spec.submodule_search_locations)
    return (Path(spec.origin),) if spec.origin and spec.origin.endswith(".py") else ()


def _top_levels(distribution: str) -> set[str]:
    """The packages and modules of a distribution, as far as its metadata lists them."""
    try:
        listed = metadata.distribution(distribution).read_text("top_level.txt") or ""
    except metadata.PackageNotFoundError:
        return set()
    return set(listed.split()) - KERNEL_PACKAGES


def normalised_digest(source: bytes) -> str:
    """SHA-256 of the syntax tree without comments, docstrings, formatting and positions."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return hashlib.sha256(source).hexdigest()
    return _tree_digest(tree)


@lru_cache(maxsize=4096)
def _read(file: Path, _stamp: tuple[int, ...], name: str) -> tuple[str, tuple[str, ...]]:
    """Digest of one file and the modules that it may import; cached until the file is changed or replaced."""
    source = file.read_bytes()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return hashlib.sha256(source).hexdigest(), ()
    package = PurePosixPath(name).parts[:-1]  # of a module and of an `__init__` alike
    return _tree_digest(tree), tuple(_imported(tree, package))


def _imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """Names of imported modules; `from a import b` gives `a.b`, even if `b` is no module but a name in `a`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _module_file(module: str, places: Places) -> tuple[str, Path] | None:
    """Name and file of module `a.b.c`, else of the module `a.b`, which then defines `c`. The name is "a/b/c.py"."""
    top, *below = module.split(".")
    for place in places.get(top, ()):
        if place.suffix == ".py":
            return place.name, place
        for names in (below, below[:-1]):
            base = place.joinpath(*names)
            for file in (base.with_suffix(".py"), base / "__init__.py"):
                if file.is_file() and (names or file.name == "__init__.py"):
                    return PurePosixPath(top, *file.relative_to(place).parts).as_posix(), file
    return None


def _tree_digest(tree: ast.AST) -> str:
    parts: list[str] = []
    _write(tree, parts)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _write(value: object, parts: list[str]) -> None:
    """Write the tree as text. Empty fields are left out, because their number differs between Python versions."""
    if isinstance(value, ast.AST):
        parts.append(f"({type(value).__name__}")
        for name, item in ast.iter_fields(value):
            item = _without_docstring(value, item) if name == "body" else item
            if item is not None and item != []:
                parts.append(name)
                _write(item, parts)
        parts.append(")")
    elif isinstance(value, list):
        parts.append("[")
        for item in value:
            _write(item, parts)
        parts.append("]")
    else:
        parts.append(f"{type(value).__name__} {value!r}")


def _without_docstring(node: ast.AST, body: object) -> object:
    documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    if not documented or not isinstance(body, list) or not body:
        return body
    first = body[0].value if isinstance(body[0], ast.Expr) else None
    return body[1:] if isinstance(first, ast.Constant) and isinstance(first.value, str) else body
