import hashlib

import pytest

from orchestrator.cli import exit_code
from orchestrator.commands.shared.options import Locations
from orchestrator.web.command import arguments_of


def test_a_new_token_is_printed_once_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["serve", "--new-token", "alice:operator"]) == 0
    out, err = capsys.readouterr()
    token = out.strip()
    assert len(token) >= 43, "256 random bits"
    assert f"alice operator {hashlib.sha256(token.encode()).hexdigest()}" in err
    assert exit_code(["serve", "--new-token", "alice:root"]) == 2
    assert "role 'root'" in capsys.readouterr().err


def test_strangers_are_not_let_in_by_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["serve", "--host", "0.0.0.0"]) == 2
    assert "--token-file FILE" in capsys.readouterr().err


def test_other_commands_are_led_to_the_same_places() -> None:
    found = arguments_of(Locations(store="s3://b/p", database=None, tracking="none"))
    assert found == ("--store", "s3://b/p", "--tracking", "none")
