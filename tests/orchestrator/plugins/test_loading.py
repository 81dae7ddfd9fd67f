import sys
from pathlib import Path

import pytest

from orchestrator.errors import PluginError
from orchestrator.plugins.loading import installed_kinds, load_target
from orchestrator.stage import Plugin
from tests.orchestrator.plugins import foreign
from tests.orchestrator.plugins.foreign import KINDS, Kit

kit = foreign.kit
FILE = KINDS.replace(
    "from shout_kit.loudness import louder", "def louder(words: str) -> str:\n    return words.upper()"
)


def test_the_kinds_of_an_installed_package_are_found_and_know_their_origin(kit: Kit) -> None:
    (kind,) = installed_kinds()
    assert kind.name == "yell"
    assert kind.plugin == Plugin(target="shout_kit.kinds:ALL", distribution="shout-kit", version="1.0")


def test_a_module_is_loaded_by_its_name_and_belongs_to_its_distribution(kit: Kit) -> None:
    (kind,) = load_target("shout_kit.kinds:YELL")
    assert kind.plugin == Plugin(target="shout_kit.kinds:YELL", distribution="shout-kit", version="1.0")


def test_a_file_is_loaded_by_its_path_and_its_version_is_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "queue.py"  # a name that the standard library has, too
    file.write_text(FILE)
    (kind,) = load_target("./queue.py:YELL")
    assert kind.plugin is not None
    assert kind.plugin.target == f"{file}:YELL"
    assert load_target("queue.py:ALL")[0].run is kind.run, "loaded twice, it is the same"
    file.write_text(FILE.replace("upper", "lower"))
    (changed,) = load_target("./queue.py:YELL")
    assert changed.plugin is not None
    assert changed.plugin.version != kind.plugin.version
    assert sorted(path.name for path in tmp_path.iterdir()) == ["queue.py"]
    assert "queue" not in {name for name, module in sys.modules.items() if getattr(module, "__file__", "") == str(file)}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("shout_kit.kinds", "expected 'module:NAME' or './file.py:NAME'"),
        ("shout_kit.kinds:NO", "shout_kit.kinds has no 'NO'; expected a StageKind or a list of them"),
        ("shout_kit.kinds:yell", "found function, expected a StageKind"),
        ("shout_kit.absent:X", "cannot be imported: ModuleNotFoundError: No module named 'shout_kit.absent'"),
        ("./absent.py:X", "cannot be read: No such file or directory; give an existing file"),
        ("words:X", "a file that is not installed is given by its path: ./words.py:X"),
        (
            "./words.py:X",
            "cannot be imported: ZeroDivisionError: division by zero (.*/words.py, line 1); repair the file",
        ),
        ("./syntax.py:X", "cannot be imported: SyntaxError: .* repair the file"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_line(
    target: str, message: str, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.py").write_text("1 / 0\n")
    (tmp_path / "syntax.py").write_text("def (\n")
    with pytest.raises(PluginError, match=message.replace("(.*", r"\(.*").replace("1);", r"1\);")) as caught:
        load_target(target)
    assert "\n" not in str(caught.value)


def test_an_installed_package_that_cannot_be_imported_is_named_with_the_next_step(kit: Kit) -> None:
    kit.install(kinds="import absent_library\n" + KINDS)
    with pytest.raises(
        PluginError, match=r"shout-kit 1\.0 .*absent_library.*kinds\.py, line 1.*pip uninstall shout-kit"
    ):
        installed_kinds()
