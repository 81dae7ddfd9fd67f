"""The code digest changes with the code's behaviour, but not with formatting, comments or docstrings."""

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from orchestrator.planning.code_digest import CODE_PACKAGES, code_digest, code_of, normalised_digest
from orchestrator.plugins.loading import installed_kinds, load_target
from stages import STAGE_KINDS
from tests.orchestrator.plugins import foreign
from tests.orchestrator.plugins.foreign import LOUDNESS, Kit, forget_modules
from tests.orchestrator.plugins.test_loading import FILE

kit = foreign.kit

PLAIN = b"""
def double(x):
    if x > 1:
        return 2 * x
    return x
"""


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(
        tmp_path,
        stages__work="from orchestrator.stage import StageKind\ndef run():\n    from models.net import Net\n",
        models__net="import numpy\nfrom models import layers\nfrom . import losses\n",
        models__layers="from models.constants import WIDTH\n",
        models__losses="import data_pipelines.order as order\n",
        models__constants="WIDTH = 3\n",
        models__unused="X = 1\n",
        data_pipelines__order="Y = 1\n",
        orchestrator__stage="Z = 1\n",
    )
    for room in ("stages", "models", "data_pipelines", "orchestrator"):
        (tmp_path / room / "__init__.py").write_text(f'"""The package {room}."""\n')
    return tmp_path


def test_the_closure_follows_late_and_relative_imports_and_leaves_the_kernel_out(root: Path) -> None:
    assert sorted(code_digest("stages.work", root).files) == [
        "data_pipelines/order.py",
        "models/constants.py",
        "models/layers.py",
        "models/losses.py",
        "models/net.py",
        "stages/work.py",
    ]


def test_the_files_behind_every_stage_kind_are_those_that_another_reader_of_imports_finds() -> None:
    graph = grimp.build_graph(*CODE_PACKAGES, cache_dir=None)
    root = Path(__file__).parents[3]

    def file_of(module: str) -> str:
        path = root.joinpath(*module.split("."))
        return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).relative_to(root).as_posix()

    assert len(STAGE_KINDS) > 5
    for kind in STAGE_KINDS.values():
        module = kind.run.__module__
        closure = {module, *graph.find_upstream_modules(module)}
        assert set(code_of(kind).files) == {file_of(name) for name in closure}, kind.name


def test_a_change_of_an_indirect_import_changes_the_digest_and_names_the_file(root: Path) -> None:
    before = code_digest("stages.work", root)
    write(root, models__constants="WIDTH = 4\n")
    after = code_digest("stages.work", root)
    assert before.digest != after.digest
    assert {name for name in before.files if before.files[name] != after.files[name]} == {"models/constants.py"}


def test_a_change_outside_the_closure_changes_nothing(root: Path) -> None:
    before = code_digest("stages.work", root)
    write(root, models__unused="X = 2\n", orchestrator__stage="Z = 2\n", stages__other="import models.unused\n")
    assert code_digest("stages.work", root) == before


def test_a_package_file_counts_where_names_come_from_it(root: Path) -> None:
    write(root, models__constants="from models import WIDTH\n")
    (root / "models" / "__init__.py").write_text("WIDTH = 5\n")
    assert "models/__init__.py" in code_digest("stages.work", root).files


def test_a_file_beside_a_package_that_has_its_name_is_not_imported(root: Path) -> None:
    (root / "models.py").write_text("WIDTH = 4\n")
    write(root, stages__other="import models\nimport missing.module\nimport models.missing.module\n")
    assert sorted(code_digest("stages.other", root).files) == ["models/__init__.py", "stages/other.py"]


def test_circular_imports_end(root: Path) -> None:
    write(root, models__constants="import models.layers\n")
    assert "models/constants.py" in code_digest("stages.work", root).files


def test_a_file_that_cannot_be_parsed_counts_with_its_bytes(root: Path) -> None:
    write(root, models__constants="def (\n")
    before = code_digest("stages.work", root)
    write(root, models__constants="def ((\n")
    assert code_digest("stages.work", root).digest != before.digest


def test_a_module_outside_the_packages_has_an_empty_digest(root: Path) -> None:
    assert code_digest("tests.work", root).files == {}


@pytest.mark.parametrize(
    "same",
    [
        b'"""Docstring of the module."""\n' + PLAIN,
        PLAIN.replace(b"def double(x):", b'def double(x):\n    """Docstring."""'),
        PLAIN.replace(b"    if", b"    # a remark\n\n    if"),
        PLAIN.replace(b"x > 1", b"(x   >   1)"),
        PLAIN.replace(b"    ", b"\t"),
        PLAIN.replace(b"\n", b"\r\n"),
    ],
)
def test_formatting_comments_and_docstrings_do_not_count(same: bytes) -> None:
    assert normalised_digest(same) == normalised_digest(PLAIN)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"2 * x", b"3 * x"),
        (b"2 * x", b"2.0 * x"),
        (b">", b">="),
        (b"double", b"twice"),
        (b"return x", b"'x'"),
        (b"2", b"'2'"),
    ],
)
def test_behaviour_counts(old: bytes, new: bytes) -> None:
    assert normalised_digest(PLAIN.replace(old, new)) != normalised_digest(PLAIN)


def test_the_code_of_a_foreign_kind_is_its_own_package_and_what_it_imports_of_ours(kit: Kit) -> None:
    louder = "from data_pipelines.datasets import verdicts\n" + LOUDNESS
    (kit.package / "loudness.py").write_text(louder)
    (kind,) = installed_kinds()
    before = code_of(kind)
    assert sorted(before.files) == [
        "data_pipelines/datasets/verdicts.py",
        "shout_kit/kinds.py",
        "shout_kit/loudness.py",
    ]
    (kit.package / "loudness.py").write_text(louder.replace('"!"', '"!!"'))
    assert [name for name, digest in code_of(kind).files.items() if before.files[name] != digest] == [
        "shout_kit/loudness.py"
    ]


def test_the_code_of_all_packages_of_a_foreign_distribution_counts(kit: Kit) -> None:
    """Also of a namespace that several distributions share, each in a folder of its own."""
    first, second = kit.site / "first" / "company", kit.site / "second" / "company"
    for folder in (first, second):
        folder.mkdir(parents=True)
    (first / "words.py").write_text(LOUDNESS)
    (second / "signs.py").write_text("SIGN = '!'\n")
    (kit.package / "loudness.py").write_text("from company.words import louder\nfrom company.signs import SIGN\n")
    (kit.site / "shout_kit.dist-info" / "top_level.txt").write_text("shout_kit\ncompany\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(first.parent))
        patch.syspath_prepend(str(second.parent))
        (kind,) = installed_kinds()
        assert {"company/words.py", "company/signs.py"} < code_of(kind).files.keys()
    forget_modules("company")


def test_the_code_of_a_plugin_file_is_that_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE)
    (kind,) = load_target(f"{file}:YELL")
    before = code_of(kind)
    assert sorted(before.files) == ["mine.py"]
    file.write_text("# a remark\n" + FILE)
    assert code_of(kind) == before
    file.write_text(FILE.replace("upper", "lower"))
    assert code_of(kind) != before


def test_a_kind_of_a_notebook_or_script_has_no_code_to_watch(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from orchestrator.planning.code_digest import code_of\n"
        "from orchestrator.stage import StageKind\n"
        "def run(config, context): return {}\n"
        "print(dict(code_of(StageKind(name='mine', version=1, config=object, run=run, output='mine@1')).files))\n"
    )
    for command in ([str(script)], ["-c", script.read_text()]):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.returncode) == ("{}\n", 0), done.stderr
