"""A stage as commented YAML: every key of its kind, those at their defaults commented out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

from orchestrator.artifact import JSON
from orchestrator.reference.config_keys import ConfigKey, config_keys
from orchestrator.reference.kind_pages import kind_summary
from orchestrator.stage import StageKind

WIDTH = 110
MAX_DEFAULT_CHARACTERS = 60


def stage_text(stage_id: str, kind: StageKind[Any], values: Mapping[str, JSON], inputs: Mapping[str, str]) -> str:
    """A stage with its inputs and these values of its config; values of nested keys are nested mappings."""
    lines = [*(f"  # {line}" for line in wrap(kind_summary(kind), WIDTH)), f"  {stage_id}:", f"    kind: {kind.name}"]
    if inputs:
        lines.append(f"    inputs: {{{', '.join(f'{slot}: {name}' for slot, name in inputs.items())}}}")
    lines += ["    config:", *_key_lines(config_keys(kind.config), values, "      ")]
    return "\n".join(lines) + "\n"


def _key_lines(keys: Sequence[ConfigKey], values: Mapping[str, JSON], indent: str) -> Iterator[str]:
    section = ""
    for key in keys:
        if key.section and key.section != section:
            yield from (f"{indent}# -- {line}" for line in wrap(key.section, WIDTH))
        section = key.section
        value = values.get(key.name)
        comment = f"  # {key.comment}" if key.comment else ""
        if isinstance(value, dict) and key.keys:
            yield f"{indent}{key.name}:{comment}"
            yield from _key_lines(key.keys, value, indent + "  ")
        elif key.name in values:
            yield f"{indent}{key.name}: {json.dumps(value)}{comment}"
        else:
            yield f"{indent}# {key.name}: {_default_text(key)}{comment}"


def _default_text(key: ConfigKey) -> str:
    text = json.dumps(key.default, ensure_ascii=False)
    return text if len(text) <= MAX_DEFAULT_CHARACTERS else "..."
