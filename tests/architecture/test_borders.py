"""Text leaves the kernel through few borders, which mask secrets: nothing else formats logs or writes records."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("orchestrator", "stages", "data_pipelines", "models", "clusters")
FORMATS_LOGS = {"orchestrator/logs/lines.py"}  # `LineFormatter`
WRITES_BYTES = {  # `put_new` and `put_same` of bytes that are no record with text of users
    "orchestrator/store": "stores, probes, commits: their callers make the bytes with `record_bytes`",
    "orchestrator/logs/pieces.py": "lines of logs, which are masked when they are formatted",
    "orchestrator/testing.py": "stands in for a store in tests of stages",
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def called_names(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            yield function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", ""), node


def test_only_one_formatter_makes_lines_of_logs() -> None:
    for name, tree in sources():
        used = {called for called, _ in called_names(tree)}
        bases = {
            getattr(base, "attr", "")
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for base in node.bases
        }
        if name not in FORMATS_LOGS:
            assert not {"Formatter", "FileHandler"} & (used | bases), f"{name}: log through orchestrator/logs/lines.py"
        handlers = {"StreamHandler", "TerminalHandler"} & used
        assert not handlers or "LineFormatter" in used, f"{name}: a handler without LineFormatter would show secrets"


def test_records_of_a_store_are_made_by_record_bytes() -> None:
    for name, tree in sources():
        if name.startswith(tuple(WRITES_BYTES)):
            continue
        for called, call in called_names(tree):
            if called in ("put_new", "put_same"):
                used = {inner for inner, _ in called_names(tree)}
                assert "record_bytes" in used, f"{name}:{call.lineno}: `{called}` of bytes not made by `record_bytes`"
