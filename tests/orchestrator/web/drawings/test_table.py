"""The drawings that templates call are those of the functions' names."""

from orchestrator.web.drawings.table import DRAWINGS


def test_each_drawing_is_called_as_its_function() -> None:
    assert all(function.__name__ == name for name, function in DRAWINGS.items())
