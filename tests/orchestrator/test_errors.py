"""The kernel's errors can be sent between processes, and each has an exit code."""

import pickle
from collections.abc import Iterator

import pytest

from orchestrator import errors


def classes(base: type[errors.OrchestratorError]) -> Iterator[type[errors.OrchestratorError]]:
    yield base
    for derived in base.__subclasses__():
        yield from classes(derived)


OWN = sorted({cls for cls in classes(errors.OrchestratorError) if cls.__module__ == errors.__name__}, key=str)


@pytest.mark.parametrize("error_class", OWN)
def test_an_error_keeps_its_class_and_message_when_pickled(error_class: type[errors.OrchestratorError]) -> None:
    error = error_class("stage.x: found 3")
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(back), str(back)) == (error_class, "stage.x: found 3")
    assert "__init__" not in vars(error_class)


@pytest.mark.parametrize("error_class", OWN)
def test_an_exit_code_is_one_of_the_documented_ones(error_class: type[errors.OrchestratorError]) -> None:
    known = {errors.EXIT_FAILED, errors.EXIT_UNUSABLE, errors.EXIT_INFRASTRUCTURE, errors.EXIT_REQUEUE}
    assert error_class.exit_code in known
