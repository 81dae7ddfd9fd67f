"""`illume explain` and `illume lineage`: identities, changes and both directions of the lineage."""

from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume, newest

illume = test_cli.illume


def test_explain_shows_the_identity_and_what_changed(illume: Illume) -> None:
    illume("run", "words.yaml")
    first = newest(illume)["run_id"]
    illume("run", "words.yaml", "--set", "stages.loud.config.times=3")
    shown = illume("explain", "last:loud").out
    assert "loud: run  shout version 1" in shown
    assert "why: config.times: 2 -> 3" in shown
    assert '"times": 3' in shown
    compared = illume("explain", "words", "--against", first).out
    assert f"against {first}: config.times: 2 -> 3" in compared
    assert f"against {first}: inputs differ" in compared
    assert f"against {first}: nothing differs" in compared


def test_lineage_shows_both_directions(illume: Illume) -> None:
    illume("run", "words.yaml")
    graph = illume("lineage", "words:loud", "--json").data
    assert (len(graph["nodes"]), len(graph["edges"])) == (3, 2)
    assert len(illume("lineage", "words:loud", "--direction", "up", "--json").data["nodes"]) == 2
    assert illume("lineage", graph["nodes"][0]["fingerprint"][:12]).code == 0
