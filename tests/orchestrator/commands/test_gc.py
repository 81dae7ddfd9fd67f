"""`illume gc`: without --delete nothing is deleted."""

from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import Illume

illume = test_cli.illume


def test_gc_lists_without_deleting(illume: Illume) -> None:
    illume("run", "words.yaml")
    assert illume("gc").out == "can be deleted: nothing; 0 Bytes\n"
