import pytest

from orchestrator.errors import RecipeError
from orchestrator.queue.names import MAX_LENGTH, check_name


@pytest.mark.parametrize("name", ["a", "nightly-2", "ada@example.org", "x" * MAX_LENGTH, "_ci", "7"])
def test_names_that_any_place_holds_are_taken(name: str) -> None:
    assert check_name(name, "--name") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        "#x",
        "a#b",
        "a:b",
        "a/b",
        "..",
        "-x",
        "x\n",
        "a\x1b[2J",
        "x" * (MAX_LENGTH + 1),
        "\u202eabc",
        "\x00",
    ],
)
def test_others_are_refused_with_the_rule(name: str) -> None:
    with pytest.raises(RecipeError, match=r"--name: found .* expected 1 to 64 letters, digits and"):
        check_name(name, "--name")
