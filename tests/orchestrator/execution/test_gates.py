"""Gates on the metrics of stages: what breaks them, what changing one costs, and errors in recipes."""

from pathlib import Path

import pytest

from orchestrator.errors import EXIT_FAILED, EXIT_UNUSABLE
from orchestrator.execution.gates import broken_gates
from orchestrator.stage import Gate, Resources, RetryPolicy, StageKind, StageSpec
from tests.orchestrator import test_cli
from tests.orchestrator.test_cli import RECIPE, Illume, actions, newest

illume = test_cli.illume


def write(folder: Path, gates: str) -> None:
    """Write the recipe of words with gates of the stage `loud`, which returns the metric `words`: 2."""
    recipe = RECIPE.replace("config: {times: 2}}", "config: {times: 2}, gates: " + gates + "}")
    (folder / "words.yaml").write_text(recipe)


@pytest.mark.parametrize(
    ("gate", "value", "message"),
    [
        (Gate(at_most=2.0), 2.0, ""),
        (Gate(at_most=2.0), 2.5, "gates.share: found 2.5, expected at most 2"),
        (Gate(at_least=0.5), 0.25, "gates.share: found 0.25, expected at least 0.5"),
        (Gate(at_least=0.5, at_most=0.75), 0.6, ""),
        (Gate(at_least=0.5), float("nan"), "gates.share: found nan, expected at least 0.5"),
        (Gate(at_most=0.5), float("nan"), "gates.share: found nan, expected at most 0.5"),
    ],
)
def test_the_table_of_bounds(gate: Gate, value: float, message: str) -> None:
    assert broken_gates(spec({"share": gate}), {"share": value}) == ([message] if message else [], [])


def spec(gates: dict[str, Gate], metric_names: frozenset[str] = frozenset()) -> StageSpec:
    kind: StageKind[None] = StageKind(
        name="count",
        version=1,
        config=type(None),
        run=lambda config, context: {},
        output="words@1",
        metric_names=metric_names,
    )
    return StageSpec(
        id="loud", kind=kind, config=None, inputs={}, resources=Resources(), retry=RetryPolicy(), gates=gates
    )


def test_a_missing_metric_that_the_kind_declares_counts_as_zero() -> None:
    gates = {"reason/pii_share": Gate(at_most=0.01), "keep": Gate(at_least=1.0, severity="warning")}
    known = frozenset({"reason/pii_share", "keep"})
    assert broken_gates(spec(gates, known), {"keep": 2.0}) == ([], [])
    assert broken_gates(spec(gates, known), {}) == ([], ["gates.keep: found 0, expected at least 1"])
    errors, _ = broken_gates(spec(gates), {"keep": 2.0})
    assert errors == ["gates.reason/pii_share: the stage returned no such metric; it returned keep"]


def test_a_broken_gate_blocks_what_follows_and_another_bound_continues(illume: Illume, tmp_path: Path) -> None:
    write(tmp_path, "{words: {at_most: 1}}")
    answer = illume("run", "words.yaml")
    assert answer.code == EXIT_FAILED
    assert "loud: gates.words: found 2, expected at most 1" in answer.err
    assert "blocked: pair" in answer.err
    status = illume("status", newest(illume)["run_id"], "--json").data
    assert [stage["failure_class"] for stage in status["stages"] if stage["stage_id"] == "loud"] == ["user_code"]
    write(tmp_path, "{words: {at_most: 2}}")
    assert actions(illume) == {"said": "reuse", "loud": "run", "pair": "run"}
    assert illume("run", "words.yaml").code == 0


def test_gates_are_not_identity_and_apply_to_existing_artifacts(illume: Illume, tmp_path: Path) -> None:
    illume("run", "words.yaml")
    write(tmp_path, "{words: {at_least: 3}}")
    assert set(actions(illume).values()) == {"reuse"}
    answer = illume("run", "words.yaml", "--force", "pair")
    assert answer.code == EXIT_UNUSABLE
    assert "stages.loud, which would be reused: gates.words: found 2, expected at least 3" in answer.err
    write(tmp_path, "{words: {at_least: 3, severity: warning}}")
    answer = illume("run", "words.yaml", "--force", "pair")
    assert answer.code == 0, answer.err


def test_a_warning_is_logged_and_blocks_nothing(illume: Illume, tmp_path: Path) -> None:
    write(tmp_path, "{words: {at_most: 1, severity: warning}}")
    assert illume("run", "words.yaml").code == 0
    events = illume("events", "--json").out
    assert "gate_broken" in events
    assert "gates.words: found 2, expected at most 1" in events


def test_an_unknown_metric_is_named_with_the_returned_ones(illume: Illume, tmp_path: Path) -> None:
    write(tmp_path, "{word: {at_most: 1}}")
    answer = illume("run", "words.yaml")
    assert answer.code == EXIT_FAILED
    assert "gates.word: the stage returned no such metric; it returned words" in answer.err


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ("{words: {}}", "found no bound, expected at_least or at_most"),
        ("{words: {at_mots: 1}}", "did you mean 'at_most'"),
        ("{words: {at_most: many}}", "expected a number"),
        ("{words: {at_most: 1, severity: bad}}", "severity"),
        ("[words]", "expected a mapping from metrics of the stage to bounds"),
    ],
)
def test_mistakes_in_gates_are_named(illume: Illume, tmp_path: Path, gates: str, message: str) -> None:
    write(tmp_path, gates)
    answer = illume("plan", "words.yaml")
    assert answer.code == EXIT_UNUSABLE
    assert message in answer.err
    assert "stages.loud.gates" in answer.err


def test_a_bound_can_be_set_from_the_command_line(illume: Illume) -> None:
    answer = illume("run", "words.yaml", "--set", "stages.loud.gates.words.at_most=1")
    assert answer.code == EXIT_FAILED
    assert "expected at most 1" in answer.err
