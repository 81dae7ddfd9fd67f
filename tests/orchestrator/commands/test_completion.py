"""`illume completion`: a script for each shell that click knows."""

import pytest

from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(illume: Illume, shell: str) -> None:
    script = illume("completion", shell).out
    assert f"_ILLUME_COMPLETE={shell}_complete" in script
