"""Finds the guards of a module, and takes one out."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CHECK = re.compile(r"_?(check|verify|demand|require|refuse|reject|take|limit|must)(_|$)")
_REFUSING = re.compile(r"refus|reus|deny|denied|error|invalid|unredirectable|problem|abort", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One guard less in one module."""

    path: Path
    """From the root of the project."""
    function: str
    line: int
    felt: int
    """The line that only runs where the guard makes a difference: what runs it not cannot miss the guard."""
    removed: str
    """As it stands in the source, on one line."""
    becomes: str
    text: str
    """The whole module without it."""
    nth: int = 1
    """Of those that read alike in one function."""

    @property
    def key(self) -> str:
        """Names it also when lines move."""
        again = f" #{self.nth}" if self.nth > 1 else ""
        return f"{self.path} {self.function}: {self.removed} -> {self.becomes}{again}"


def mutants(path: Path, source: str) -> Iterator[Mutant]:
    """Every module that has one guard, or one alternative of a guard, less than `source`."""
    finder = _Finder()
    finder.visit(ast.parse(source))
    lines = [0]
    for line in source.encode().splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    data = source.encode()
    seen: Counter[tuple[str, str]] = Counter()
    for function, node, felt, becomes in finder.found:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = lines[node.lineno - 1] + node.col_offset
        end = lines[node.end_lineno - 1] + node.end_col_offset
        removed = " ".join(data[start:end].decode().split())
        seen[function, removed] += 1
        yield Mutant(
            path,
            function,
            node.lineno,
            felt,
            removed,
            becomes,
            (data[:start] + becomes.encode() + data[end:]).decode(),
            seen[function, removed],
        )


class _Finder(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: list[tuple[str, ast.expr | ast.stmt, int, str]] = []
        self._names: list[str] = []

    def _named(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self._names.append(node.name)
        self.generic_visit(node)
        self._names.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _named  # noqa: N815 - names of ast

    def visit_If(self, node: ast.If) -> None:
        if _refuses(node.body):
            self._take_out(node.test, node.body[0].lineno)
        self.generic_visit(node)

    def visit_match_case(self, node: ast.match_case) -> None:
        if node.guard is not None and _refuses(node.body):
            self._take_out(node.guard, node.body[0].lineno)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(call, ast.Call) and _CHECK.match(_name_of(call.func)):
            self._add(node, node.lineno, "pass")
        self.generic_visit(node)

    def _take_out(self, test: ast.expr, felt: int) -> None:
        match test:
            case ast.BoolOp(op=ast.Or(), values=alternatives):
                for alternative in alternatives:
                    self._take_out(alternative, felt)
            case ast.UnaryOp(op=ast.Not(), operand=ast.BoolOp(op=ast.And(), values=demands)):
                for demand in demands:
                    self._add(demand, felt, "True")
            case _:
                self._add(test, felt, "False")

    def _add(self, node: ast.expr | ast.stmt, felt: int, becomes: str) -> None:
        self.found.append((".".join(self._names), node, felt, becomes))


def _refuses(body: list[ast.stmt]) -> bool:
    match body[-1]:
        case ast.Raise():
            return True
        case ast.Return(value=None | ast.Constant(value=None | False)):
            return True
        case (
            ast.Return(value=ast.Call(func=called)) | ast.Return(value=ast.Await(value=ast.Call(func=called)))
        ):
            return bool(_REFUSING.search(_name_of(called)))
        case _:
            return False


def _name_of(called: ast.expr) -> str:
    match called:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value=value):
            return _name_of(value)
        case _:
            return ""
