"""The YAML subset of recipes: hostile or ambiguous text is refused with its line."""

import io
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML, YAMLError

from orchestrator.errors import RecipeError
from orchestrator.recipe.loading import load_recipe
from orchestrator.recipe.yaml_subset import MAX_BYTES, MAX_DEPTH, parse_yaml, read_text

HOSTILE = {
    "a bomb of aliases": ("a: &a [x]\nb: &b [*a, *a]\n", "bomb.yaml:2: found the alias '*a'"),
    "deep nesting": ("[" * 100_000, f"bomb.yaml:1: found more than {MAX_DEPTH} levels of nesting"),
    "deep blocks": ("".join(f"{' ' * depth}a:\n" for depth in range(300)), "levels of nesting"),
    "an object of Python": ("a: !!python/object/apply:os.system [ls]", "bomb.yaml:1: found the tag"),
    "a merge key": ("a: {<<: {b: 1}}", "found the merge key '<<'"),
    "a list as a key": ("? [a]\n: 1", "found a list or mapping as a key"),
    "two documents": ("a: 1\n---\nb: 1", "bomb.yaml:2: found a second document; expected one"),
    "half a surrogate pair": ('a: "\\ud800"', "bomb.yaml:1: found half of a surrogate pair"),
    "a zero byte": ("a: \0", "broken YAML"),
    "an endless number": ("a: " + "9" * 100_000, "expected a finite number"),
    "an open quote": ("a: 'x", "bomb.yaml:1: broken YAML"),
    "a tab for spaces": ("a:\n\tb: 1", "bomb.yaml:2: broken YAML"),
    "nothing": ("", "found nothing (null), expected a mapping with the keys 'name' and 'stages'"),
}


@pytest.mark.parametrize("bomb", HOSTILE)
def test_hostile_yaml_is_refused_at_once_with_its_line(bomb: str, tmp_path: Path) -> None:
    text, expected = HOSTILE[bomb]
    file = tmp_path / "bomb.yaml"
    file.write_text(text)
    started = time.monotonic()
    with pytest.raises(RecipeError, match=re.escape(expected)):
        load_recipe(file, {})
    assert time.monotonic() - started < 5.0, "usually milliseconds; an expanded bomb would never end"


def test_a_file_that_is_not_utf8_is_refused_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"name: demo\n# caf\xe9\n")
    with pytest.raises(RecipeError, match=r"latin\.yaml:2: found a byte that is not UTF-8"):
        load_recipe(file, {})


def test_a_huge_file_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    file = tmp_path / "huge.yaml"
    with file.open("wb") as stream:
        stream.truncate(100 * MAX_BYTES)
    with pytest.raises(RecipeError, match="found more than 512 KiB"):
        load_recipe(file, {})


@pytest.mark.parametrize(("name", "expected"), [("absent.yaml", "No such file"), (".", "Is a directory")])
def test_a_recipe_that_cannot_be_read_is_named(name: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"cannot read the recipe: {expected}"):
        load_recipe(tmp_path / name, {})


def test_other_files_are_called_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read the profile: No such file"):
        read_text(tmp_path / "absent.yaml", "profile")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(RecipeError, match="save the price file as UTF-8"):
        read_text(tmp_path / "latin.yaml", "price file")


@given(st.text(max_size=200) | st.lists(st.sampled_from(list("ab:-[]{}&*!|>'\"#\n \t?,0.e")), max_size=60).map("".join))
def test_any_text_is_parsed_or_refused_with_a_recipe_error(text: str) -> None:
    try:
        parse_yaml(text, "any.yaml")
    except RecipeError as error:
        refusal = str(error)
    else:
        refusal = "any.yaml"
    assert refusal.startswith("any.yaml")


# Without the line breaks of YAML 1.1 that YAML 1.2 took for characters; no editor writes them.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029\ufeff"), max_size=20)
KEYS = TEXT.filter(lambda key: key != "<<")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@given(PLAIN)
def test_what_another_library_writes_as_yaml_1_2_is_read_as_it_was(value: object) -> None:
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    stream = io.StringIO()
    writer.dump([value], stream)
    document = parse_yaml(stream.getvalue(), "x.yaml")
    assert (document.data, document.problems) == ([value], ())


# Without mappings, as keys are always text here, and without '.1e5', which is text to ruamel.yaml.
@given(st.lists(st.sampled_from([*"ab-[]\"',#1+~", "\n", "\n ", " ", "1e5", "true", "- "]), max_size=14))
def test_what_both_libraries_accept_they_read_alike(parts: list[str]) -> None:
    text = "".join(parts)
    try:
        document = parse_yaml(text, "x.yaml")
        expected = YAML(typ="safe", pure=True).load(text)
    except (RecipeError, YAMLError):
        return
    if not document.problems:
        assert document.data == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("-.5", -0.5),
        ("1_000", "1_000"),
        ("0x10", 16),
        ("0o17", 15),
        ("010", 10),
        ("1:30", "1:30"),
        ("no", "no"),
        ("2024-01-31", "2024-01-31"),
        ("TRUE", True),
        ("~", None),
        ("'1'", "1"),
        ("+3", 3),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    data = parse_yaml(f"[{text}]", "x.yaml").data
    assert data == [value]
    assert isinstance(data, Sequence)
    assert type(data[0]) is type(value)
