from orchestrator.attempt_id import AttemptId


def test_the_name_of_an_attempt_has_its_run_stage_epoch_and_number() -> None:
    attempt = AttemptId.of("20260101-120000-abcdef", "clean", epoch=3, number=2)
    assert str(attempt) == attempt.name == "20260101-120000-abcdef-clean-3-2"
    assert attempt.provenance == {"run": "20260101-120000-abcdef", "stage": "clean", "attempt": attempt.name}
