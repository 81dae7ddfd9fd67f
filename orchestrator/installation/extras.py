"""Optional packages: what each extra is for, and the words for one that is not installed."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.errors import MissingExtraError
from orchestrator.installation.version import PACKAGE


@dataclass(frozen=True, kw_only=True)
class Extra:
    """An entry of `[project.optional-dependencies]`."""

    module: str  # importable if and only if the extra is installed
    purpose: str


EXTRAS: Mapping[str, Extra] = {
    "deepspeed": Extra(module="deepspeed", purpose="ZeRO, which no training strategy uses yet"),
    "kubernetes": Extra(module="kubernetes", purpose="submitting runs to Kubernetes"),
    "notify": Extra(module="apprise", purpose="notices of `illume serve --notify`"),
    "postgresql": Extra(module="psycopg", purpose="an index database on PostgreSQL"),
    "ui": Extra(module="flask", purpose="`mlflow ui`, the pages of the tracker"),
}


def is_installed(name: str) -> bool:
    """Whether the packages of an extra are there; nothing of them is executed."""
    return importlib.util.find_spec(EXTRAS[name].module) is not None


def install_command(name: str) -> str:
    return f"pip install '{PACKAGE}[{name}]'"


def require_extra(name: str) -> None:
    """Raises `MissingExtraError`, which names the command, if the extra is missing. Call it before anything begins."""
    if not is_installed(name):
        extra = EXTRAS[name]
        raise MissingExtraError(
            f"{extra.purpose} needs the package {extra.module!r}, which is not installed; "
            f"install it with: {install_command(name)}"
        )
