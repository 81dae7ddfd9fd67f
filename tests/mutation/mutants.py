"""Small changes to a module, one at a time: another comparison, a dropped call, a number one higher."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitXor: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.MatMult: ast.Add,
}
_SWAPPED_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
_UNSEEN_CALLS = frozenset({"debug", "info", "warning", "error", "exception", "hit"})  # of logs and failpoints


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change to one line."""

    line: int
    text: str  # of the line, without indentation
    change: str  # "`a < b` -> `a <= b`"
    source: str  # of the whole module, changed

    @property
    def name(self) -> str:
        """How the list of equivalents names it; without the line's number, which moves."""
        return f"{self.text} | {self.change}"


def mutants_of(source: str) -> list[Mutant]:
    """All mutants of a module, in the order of their lines."""
    tree = ast.parse(source)
    lines = source.splitlines()
    found = []
    for parent, field, position in list(_places(tree)):
        node = _get(parent, field, position)
        for replacement in _replacements(node):
            change = f"`{_short(node)}` -> `{_short(replacement)}`"
            _set(parent, field, position, ast.copy_location(replacement, node))
            mutated = ast.unparse(ast.fix_missing_locations(tree))
            _set(parent, field, position, node)
            line = int(getattr(node, "lineno", 0))  # statements and expressions have one
            found.append(Mutant(line=line, text=lines[line - 1].strip(), change=change, source=mutated))
    return sorted(found, key=lambda mutant: (mutant.line, mutant.change))


Place = tuple[ast.AST, str, int | None]  # of a node: its parent, the field, and the index if the field is a list


def _places(node: ast.AST) -> Iterator[Place]:
    """Places of all statements and expressions that a run evaluates, except decorators."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list") or _is_never_run(value):
            continue
        children = value if isinstance(value, list) else [value]
        for position, child in enumerate(children):
            if isinstance(child, ast.AST) and not _is_never_run(child):
                if isinstance(child, ast.stmt | ast.expr):
                    yield node, field, position if isinstance(value, list) else None
                yield from _places(child)


def _is_never_run(node: object) -> bool:
    """True for what is for type checkers or says what cannot happen, and for texts."""
    if isinstance(node, ast.Assert | ast.JoinedStr) or (isinstance(node, ast.keyword) and node.arg == "strict"):
        return True
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, ast.Assign) and "Callable[" in ast.unparse(node.value)


def _get(parent: ast.AST, field: str, position: int | None) -> Any:
    value = getattr(parent, field)
    return value if position is None else value[position]


def _set(parent: ast.AST, field: str, position: int | None, node: ast.AST) -> None:
    if position is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[position] = node


def _short(node: ast.AST) -> str:
    """The text of a node; of a compound statement its head."""
    return ast.unparse(node).splitlines()[0]


def _replacements(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.expr):
        yield from _other_operators(node)
        yield from _other_values(node)
    else:
        yield from _other_statements(node)


def _other_operators(node: ast.expr) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=right) if type(operator) in _COMPARISONS:
            yield ast.Compare(left=left, ops=[_COMPARISONS[type(operator)]()], comparators=right)
        case ast.BoolOp(op=ast.And(), values=values):
            yield ast.BoolOp(op=ast.Or(), values=values)
            yield from values if len(values) == 2 else ()
        case ast.BoolOp(op=ast.Or(), values=values):
            yield ast.BoolOp(op=ast.And(), values=values)
            yield from values if len(values) == 2 else ()
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC and not _is_text(node):
            yield ast.BinOp(left=left, op=_ARITHMETIC[type(operator)](), right=right)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand


def _other_values(node: ast.expr) -> Iterator[ast.AST]:
    match node:
        case ast.Constant(value=bool() as value):
            yield ast.Constant(value=not value)
        case ast.Constant(value=int() | float() as number):
            yield ast.Constant(value=number + 1)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords) if name in _SWAPPED_CALLS:
            yield ast.Call(func=ast.Name(id=_SWAPPED_CALLS[name]), args=arguments, keywords=keywords)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield ast.IfExp(test=test, body=orelse, orelse=body)


def _other_statements(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.If(test=test, body=body, orelse=orelse) if not isinstance(test, ast.Compare | ast.UnaryOp):
            yield ast.If(test=ast.UnaryOp(op=ast.Not(), operand=test), body=body, orelse=orelse)
        case ast.Expr(value=ast.Call(func=function)) if not _is_unseen(function):
            yield ast.Pass()
        case ast.AugAssign() | ast.Raise(exc=ast.expr()):
            yield ast.Pass()
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(value=ast.Constant(value=None))
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()


def _is_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str) for side in sides)


def _is_unseen(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and function.attr in _UNSEEN_CALLS
