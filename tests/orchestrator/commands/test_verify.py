"""`illume verify`: damage is found and healed."""

from pathlib import Path

from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume, actions

illume = test_cli.illume


def test_verify_finds_damage_and_heals_it(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    assert "3 artifacts checked, nothing is damaged" in illume("verify").out
    damaged = next(file for file in (tmp_path / ".illume" / "store").rglob("words.txt") if file.read_text() == "hello")
    damaged.chmod(0o644)
    damaged.write_text("hallo")
    found = illume("verify")
    assert (found.code, "1 damaged" in found.out) == (1, True)
    assert illume("verify", "words:said", "--heal").code == 0
    assert actions(illume) == {"said": "skip", "loud": "reuse", "pair": "reuse"}
