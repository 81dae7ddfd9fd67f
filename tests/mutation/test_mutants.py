"""Mutants of a small module: which changes are made, and that each is one change."""

import ast

from tests.mutation.mutants import mutants_of

SOURCE = '''
LIMIT = 3

def f(x: int = 0) -> int:
    """Not 1."""
    assert x < 9, "cannot happen"
    y = zip(x, x, strict=True)
    if not x and x <= LIMIT:
        raise ValueError(f"found {x + 1}")
    g(x)
    return min(x, 2) * 4
'''


def test_each_mutant_changes_one_expression_or_statement() -> None:
    changes = {mutant.change for mutant in mutants_of(SOURCE)}
    assert changes == {
        "`3` -> `4`",
        "`0` -> `1`",
        "`not x and x <= LIMIT` -> `not x or x <= LIMIT`",
        "`not x and x <= LIMIT` -> `not x`",
        "`not x and x <= LIMIT` -> `x <= LIMIT`",
        "`if not x and x <= LIMIT:` -> `if not (not x and x <= LIMIT):`",
        "`not x` -> `x`",
        "`x <= LIMIT` -> `x < LIMIT`",
        "`raise ValueError(f'found {x + 1}')` -> `pass`",
        "`g(x)` -> `pass`",
        "`return min(x, 2) * 4` -> `return None`",
        "`min(x, 2) * 4` -> `min(x, 2) / 4`",
        "`min(x, 2)` -> `max(x, 2)`",
        "`2` -> `3`",
        "`4` -> `5`",
    }
    before = ast.unparse(ast.parse(SOURCE)).splitlines()
    for mutant in mutants_of(SOURCE):
        after = mutant.source.splitlines()
        assert sum(old != new for old, new in zip(before, after, strict=True)) == 1
        assert SOURCE.splitlines()[mutant.line - 1].strip() == mutant.text
