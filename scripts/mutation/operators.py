"""What can be changed in a Python module, one place at a time.

Pure: text in, mutants out, always in the same order. Text for people is left alone (strings, docstrings, what
is raised, what is traced), and so are annotations of functions, decorators and assertions. Bounds in
annotations of fields are changed like any other number.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_FLIPS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_SIGNS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Is: "is",
    ast.IsNot: "is not",
}
_ARITHMETIC: dict[type[ast.operator], tuple[type[ast.operator], str]] = {
    ast.Add: (ast.Sub, "+ -> -"),
    ast.Sub: (ast.Add, "- -> +"),
    ast.Mult: (ast.FloorDiv, "* -> //"),
    ast.FloorDiv: (ast.Mult, "// -> *"),
    ast.Div: (ast.Mult, "/ -> *"),
}
_TOLD = ("trace", "_trace", "on_trace")
"""Calls that only tell people something."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file."""

    file: str
    line: int
    column: int
    change: str
    """What becomes what, for people."""
    text: str
    """The line as it is in the file, without its indentation."""
    index: int
    """Which of the module's mutants it is: `mutated` makes it again."""

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}:{self.column} {self.change}"


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its text."""
    lines = source.splitlines()
    return [
        Mutant(file, line, column, change, lines[line - 1].strip(), index)
        for index, (line, column, change, _) in enumerate(_edits(ast.parse(source)))
    ]


def mutated(source: str, index: int) -> ast.Module:
    """The module with that change."""
    tree = ast.parse(source)
    for number, (_, _, _, apply) in enumerate(_edits(tree)):
        if number == index:
            apply()
            return ast.fix_missing_locations(tree)
    raise IndexError(f"the module has no mutant {index}")


# -- the changes ----------------------------------------------------------------------------------

_Edit = tuple[int, int, str, "_Apply"]


class _Apply:
    """Puts another value where one was, when called."""

    def __init__(self, holder: object, field: str, value: object, position: int | None = None) -> None:
        self._holder, self._field, self._value, self._position = holder, field, value, position

    def __call__(self) -> None:
        if self._position is None:
            setattr(self._holder, self._field, self._value)
        else:
            getattr(self._holder, self._field)[self._position] = self._value


def _edits(tree: ast.Module) -> Iterator[_Edit]:
    yield from _of_body(tree, "body")


def _of_body(holder: ast.AST, field: str) -> Iterator[_Edit]:
    for position, statement in enumerate(getattr(holder, field)):
        yield from _of_statement(holder, field, position, statement)


def _of_statement(holder: ast.AST, field: str, position: int, statement: ast.stmt) -> Iterator[_Edit]:
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.Assert) or _is_text(statement):
        return
    if _may_be_dropped(statement):
        yield _edit(statement, "drop", _Apply(holder, field, _passing(statement), position))
    if isinstance(statement, ast.FunctionDef) and _does_something(statement):
        yield _edit(statement, f"{statement.name} returns at once", _Apply(statement, "body", [ast.Return()]))
    if isinstance(statement, ast.If | ast.While) and not isinstance(statement.test, ast.Compare):
        yield _edit(statement.test, "negate", _Apply(statement, "test", _negated(statement.test)))
    for name, value in ast.iter_fields(statement):
        if _is_left_alone(statement, name):
            continue
        if name in ("body", "orelse", "finalbody"):
            yield from _of_body(statement, name)
        elif name == "handlers" and isinstance(statement, ast.Try):
            for handler in statement.handlers:
                yield from _of_body(handler, "body")
        elif name == "cases" and isinstance(statement, ast.Match):
            for case in statement.cases:
                yield from _of_expression(case, "guard", None, case.guard)
                yield from _of_body(case, "body")
        elif isinstance(value, list):
            for index, each in enumerate(value):
                yield from _of_expression(statement, name, index, each)
        else:
            yield from _of_expression(statement, name, None, value)


def _of_expression(holder: ast.AST, field: str, position: int | None, node: object) -> Iterator[_Edit]:
    if not isinstance(node, ast.AST) or isinstance(node, ast.JoinedStr | ast.expr_context):
        return

    def replaced(value: ast.AST, change: str) -> _Edit:
        return _edit(node, change, _Apply(holder, field, value, position))

    if isinstance(node, ast.Call) and _tells(node):
        return
    if isinstance(node, ast.Compare):
        for index, op in enumerate(node.ops):
            for other in _FLIPS[type(op)]:
                change = f"{_SIGNS[type(op)]} -> {_SIGNS[other]}"
                yield _edit(node, change, _Apply(node, "ops", other(), index))
    elif isinstance(node, ast.BoolOp):
        other_op, change = (
            (ast.Or(), "and -> or") if isinstance(node.op, ast.And) else (ast.And(), "or -> and")
        )
        yield _edit(node, change, _Apply(node, "op", other_op))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield replaced(node.operand, "drop not")
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _is_about_text(node):
        other_type, change = _ARITHMETIC[type(node.op)]
        yield _edit(node, change, _Apply(node, "op", other_type()))
    elif isinstance(node, ast.IfExp) and not isinstance(node.test, ast.Compare):
        yield _edit(node, "negate", _Apply(node, "test", _negated(node.test)))
    elif isinstance(node, ast.Constant):
        for value in _other_values(node.value):
            yield replaced(ast.copy_location(ast.Constant(value), node), f"{node.value} -> {value}")
    for name, value in ast.iter_fields(node):
        if isinstance(value, list):
            for index, each in enumerate(value):
                yield from _of_expression(node, name, index, each)
        else:
            yield from _of_expression(node, name, None, value)


def _edit(node: ast.AST, change: str, apply: _Apply) -> _Edit:
    assert isinstance(node, ast.stmt | ast.expr)
    return node.lineno, node.col_offset, change, apply


# -- what is what ---------------------------------------------------------------------------------


def _may_be_dropped(statement: ast.stmt) -> bool:
    """Whether it does something that the next lines do not need a name from."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call) and not _tells(statement.value)
    if isinstance(statement, ast.Assign):
        return all(isinstance(each, ast.Attribute | ast.Subscript) for each in statement.targets)
    return isinstance(statement, ast.AugAssign | ast.Delete | ast.Raise | ast.Continue | ast.Break)


def _does_something(function: ast.FunctionDef) -> bool:
    body = [each for each in function.body if not _is_text(each)]
    return bool(body) and function.name != "__init__" and not isinstance(body[0], ast.Raise)


def _is_left_alone(statement: ast.stmt, field: str) -> bool:
    if field in ("decorator_list", "args", "returns", "bases", "keywords", "targets", "target"):
        return True
    if isinstance(statement, ast.Raise):
        return True
    if isinstance(statement, ast.AnnAssign):  # the bounds of a field count, the type of a name does not
        return field == "annotation" and "Between" not in ast.unparse(statement.annotation)
    return isinstance(statement, ast.Assign) and any(
        isinstance(each, ast.Name) and each.id == "__slots__" for each in statement.targets
    )


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_about_text(node: ast.BinOp) -> bool:
    """Joining strings, bytes or lists is no arithmetic: the other sign is an error at once."""
    sides = (node.left, node.right)
    return any(isinstance(each, ast.List | ast.Tuple | ast.JoinedStr) for each in sides) or any(
        isinstance(each, ast.Constant) and isinstance(each.value, str | bytes) for each in sides
    )


def _tells(call: ast.Call) -> bool:
    name = ast.unparse(call.func).rpartition(".")[2]
    return name in _TOLD or name.endswith(("Trace", "Error"))


def _negated(test: ast.expr) -> ast.expr:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    return ast.copy_location(ast.UnaryOp(ast.Not(), copy.copy(test)), test)


def _passing(statement: ast.stmt) -> ast.stmt:
    return ast.copy_location(ast.Pass(), statement)


def _other_values(value: object) -> tuple[object, ...]:
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):
        return (value + 1, value - 1) if value > 1 else (value + 1,)
    return (2 * value + 1.0,) if isinstance(value, float) else ()
