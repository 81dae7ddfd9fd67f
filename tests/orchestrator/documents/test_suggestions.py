"""Messages about unknown names suggest the nearest valid name, or list the valid ones."""

import pytest

from orchestrator.documents.suggestions import MAX_LISTED, check_names, expectation
from orchestrator.errors import RecipeError


@pytest.mark.parametrize(
    ("found", "valid", "expected"),
    [
        ("curat", ["curate", "ingest"], "did you mean 'curate'?"),
        ("x", ["ingest", "curate"], "expected one of: curate, ingest"),
        ("x", [], "none is expected here"),
        ("", [f"{number:02}" for number in range(MAX_LISTED + 2)], "10, 11 and 2 more"),
    ],
)
def test_the_expectation_names_what_is_valid(found: str, valid: list[str], expected: str) -> None:
    assert expectation(found, valid).endswith(expected)


def test_the_first_unknown_name_is_refused_with_its_context() -> None:
    check_names(["a"], ["a", "b"], where="--only", what="stage")
    with pytest.raises(RecipeError, match=r"^--only: found no stage 'curat'; did you mean 'curate'\?$"):
        check_names(["curate", "curat", "x"], ["curate"], where="--only", what="stage")
