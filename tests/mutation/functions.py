"""Puts the functions of a mutant in the place of those of a module that is already imported."""

import gc
from collections import defaultdict
from collections.abc import Iterator, Mapping
from inspect import CO_OPTIMIZED
from types import CodeType, FunctionType

Place = tuple[str, int]  # of a function: its qualified name, and which of those with that name

_AT_ONCE = frozenset({"<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>"})  # functions that run where they stand
_NAMELESS = _AT_ONCE | {"<lambda>"}


def changed_functions(original: str, mutant: str, file: str) -> dict[Place, CodeType] | None:
    """Code of the functions that are not the same in two sources of a module; None: they differ in more than these."""
    old, new = compile(original, file, "exec"), compile(mutant, file, "exec")
    if [_own(code) for code in _at_import(old)] != [_own(code) for code in _at_import(new)]:
        return None
    before, after = dict(_functions(old)), dict(_functions(new))
    if any(place not in after and code.co_name not in _NAMELESS for place, code in before.items()):
        return None
    both = [place for place in before if place in after]  # those without a name may be gone with a line
    changed = [place for place in both if _whole(before[place]) != _whole(after[place])]
    if any(before[place].co_freevars != after[place].co_freevars for place in changed):
        return None  # a function cannot get the code of another closure
    return {place: after[place] for place in changed}


def live_functions(source: str, file: str) -> dict[Place, list[FunctionType]]:
    """The functions of an imported module's file that exist now, by the place of their code in its source."""
    place_of = {
        (code.co_qualname, code.co_firstlineno): place for place, code in _functions(compile(source, file, "exec"))
    }
    found: dict[Place, list[FunctionType]] = defaultdict(list)
    for candidate in gc.get_objects():
        if isinstance(candidate, FunctionType) and candidate.__code__.co_filename == file:
            code = candidate.__code__
            found[place_of[code.co_qualname, code.co_firstlineno]].append(candidate)
    return found


def put_in_place(changed: Mapping[Place, CodeType], live: Mapping[Place, list[FunctionType]]) -> None:
    """Let functions that exist, and those that they will make, have the code of the mutant."""
    for place, code in changed.items():
        for function in live.get(place, ()):
            function.__code__ = code


def _functions(module: CodeType) -> Iterator[tuple[Place, CodeType]]:
    counts: dict[str, int] = defaultdict(int)
    for code in _all(module):
        if code.co_flags & CO_OPTIMIZED:
            yield (code.co_qualname, counts[code.co_qualname]), code
            counts[code.co_qualname] += 1


def _all(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in _inner(code):
        yield from _all(inner)


def _at_import(code: CodeType) -> Iterator[CodeType]:
    """What runs when the module is imported: its body, those of its classes, and comprehensions in them."""
    yield code
    for inner in _inner(code):
        if not inner.co_flags & CO_OPTIMIZED or inner.co_name in _AT_ONCE:
            yield from _at_import(inner)


def _inner(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _own(code: CodeType) -> tuple[object, ...]:
    """What a code object does by itself; texts of constants, as 1 equals True and 1.0."""
    constants = [repr(constant) for constant in code.co_consts if not isinstance(constant, CodeType)]
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars


def _whole(code: CodeType) -> list[object]:
    """What a code object does, with all that stands in it."""
    return [_own(inner) for inner in _all(code)]
