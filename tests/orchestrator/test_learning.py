from orchestrator.learning import Exposures


def test_a_checkpoint_learned_from_the_steps_before_its_own_unless_the_kind_knows_better() -> None:
    exposures = Exposures(num_steps=9, steps={"a": [3, 7], "b": []}, checkpoints={2: True})
    assert [exposures.is_in_checkpoint(step) for step in (1, 2, 3, 4, 9)] == [False, True, False, True, True]
    assert not Exposures(num_steps=9, steps={}).is_in_checkpoint(9)
