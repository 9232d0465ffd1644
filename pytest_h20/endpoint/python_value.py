"""Values of small Python expressions, computed by walking their syntax tree: nothing a model wrote is ever executed.

Only arithmetic, comparison, literals, indexing, comprehensions and a few harmless functions exist here; there is no attribute
beyond a list of string methods, no import, no assignment, and every step counts against a budget.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

MAX_STEPS = 20_000
MAX_SIZE = 10_000
MAX_TEXT = 2_000


class NotAValue(Exception):
    """The text is not an expression of the small language, or it asks for too much."""


_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "len": len,
    "list": list,
    "max": max,
    "min": min,
    "reversed": lambda x: list(reversed(x)),
    "round": round,
    "sorted": sorted,
    "str": str,
    "int": int,
    "float": float,
    "sum": sum,
    "tuple": tuple,
    "set": set,
    "enumerate": lambda x: list(enumerate(x)),
    "zip": lambda *x: list(zip(*x, strict=False)),
}
_METHODS = frozenset({"join", "lower", "upper", "strip", "split", "count", "replace"})


def value_of(text: str) -> Any:
    """The value of one expression. Raises NotAValue."""
    if len(text) > MAX_TEXT:
        raise NotAValue(f"{len(text)} characters are too many for one expression")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotAValue(f"not one Python expression: {error}") from None
    try:
        return _Walk().value(tree.body, {})
    except NotAValue:
        raise
    except (ArithmeticError, TypeError, ValueError, LookupError, RecursionError, MemoryError, AttributeError) as error:
        raise NotAValue(f"{type(error).__name__}: {error}") from None


class _Walk:
    def __init__(self) -> None:
        self.steps = 0

    def value(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise NotAValue(f"more than {MAX_STEPS} steps")
        return _bounded(self._value(node, names))

    def _value(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name) and node.id in names:
            return names[node.id]
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
            items = [self.value(item, names) for item in node.elts]
            return items if isinstance(node, ast.List) else tuple(items) if isinstance(node, ast.Tuple) else set(items)
        if isinstance(node, ast.BinOp):
            return self._binary(node, names)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd, ast.Not)):
            operand = self.value(node.operand, names)
            return -operand if isinstance(node.op, ast.USub) else +operand if isinstance(node.op, ast.UAdd) else not operand
        if isinstance(node, ast.Compare):
            return self._compare(node, names)
        if isinstance(node, ast.IfExp):
            return self.value(node.body if self.value(node.test, names) else node.orelse, names)
        if isinstance(node, ast.Subscript):
            return self.value(node.value, names)[self._index(node.slice, names)]
        if isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.SetComp)):
            items = list(self._comprehend(node.elt, node.generators, names))
            return set(items) if isinstance(node, ast.SetComp) else items
        if isinstance(node, ast.Call):
            return self._call(node, names)
        raise NotAValue(f"{type(node).__name__} is not part of the small language")

    def _binary(self, node: ast.BinOp, names: Mapping[str, Any]) -> Any:
        left, right = self.value(node.left, names), self.value(node.right, names)
        if type(node.op) not in _BINARY:
            raise NotAValue(f"{type(node.op).__name__} is not part of the small language")
        if isinstance(node.op, ast.Pow) and (abs(right) > 64 or abs(left) > 10**6):
            raise NotAValue("the power is too large")
        if isinstance(node.op, ast.Mult):
            size = max((len(x) for x in (left, right) if isinstance(x, (str, list, tuple))), default=0)
            times = max((abs(x) for x in (left, right) if isinstance(x, int)), default=1)
            if size and size * times > MAX_SIZE:
                raise NotAValue("the repetition is too long")
        return _BINARY[type(node.op)](left, right)

    def _compare(self, node: ast.Compare, names: Mapping[str, Any]) -> bool:
        left = self.value(node.left, names)
        for op, item in zip(node.ops, node.comparators, strict=True):
            right = self.value(item, names)
            if type(op) not in _COMPARE:
                raise NotAValue(f"{type(op).__name__} is not part of the small language")
            if not _COMPARE[type(op)](left, right):
                return False
            left = right
        return True

    def _index(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        if not isinstance(node, ast.Slice):
            return self.value(node, names)
        return slice(*(None if part is None else self.value(part, names) for part in (node.lower, node.upper, node.step)))

    def _comprehend(self, element: ast.expr, loops: list[ast.comprehension], names: Mapping[str, Any]) -> list[Any]:
        if not loops:
            return [self.value(element, names)]
        loop, *rest = loops
        out: list[Any] = []
        for item in self.value(loop.iter, names):
            inner = {**names, **_bind(loop.target, item)}
            if all(self.value(condition, inner) for condition in loop.ifs):
                out += self._comprehend(element, rest, inner)
        return out

    def _call(self, node: ast.Call, names: Mapping[str, Any]) -> Any:
        arguments = [self.value(item, names) for item in node.args]
        keywords = {k.arg: self.value(k.value, names) for k in node.keywords if k.arg in ("reverse", "default")}
        if len(keywords) != len(node.keywords):
            raise NotAValue("a keyword argument that is not part of the small language")
        if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
            owner = self.value(node.func.value, names)
            if not isinstance(owner, (str, list, tuple)):
                raise NotAValue(f"{node.func.attr} of a {type(owner).__name__}")
            if node.func.attr == "replace" and len(owner) * max(1, len(str(arguments[-1:]))) > MAX_SIZE:
                raise NotAValue("the replacement is too long")
            return getattr(owner, node.func.attr)(*arguments, **keywords)
        if isinstance(node.func, ast.Name) and node.func.id == "range":
            span = range(*arguments)
            if len(span) > MAX_SIZE:
                raise NotAValue("the range is too long")
            return list(span)
        if isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
            return _FUNCTIONS[node.func.id](*arguments, **keywords)
        raise NotAValue("a call that is not part of the small language")


def _bind(target: ast.expr, item: Any) -> dict[str, Any]:
    if isinstance(target, ast.Name):
        return {target.id: item}
    if isinstance(target, ast.Tuple) and all(isinstance(part, ast.Name) for part in target.elts):
        return {part.id: value for part, value in zip(target.elts, item, strict=True) if isinstance(part, ast.Name)}
    raise NotAValue("a loop variable that is not part of the small language")


def _bounded(value: Any) -> Any:
    if isinstance(value, (str, bytes, list, tuple, set)) and len(value) > MAX_SIZE:
        raise NotAValue("a value that is too long")
    if isinstance(value, int) and value.bit_length() > 4096:
        raise NotAValue("a number that is too large")
    return value
