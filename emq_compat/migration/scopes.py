"""The names of a module, a class or a function of a code base, with what is bound to each."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emq_compat.migration.meaning import Meaning

if TYPE_CHECKING:
    from emq_compat.migration.modules import Module

__all__ = ["Binding", "ImportedModule", "ImportedName", "Scope", "bind", "statements_below", "targets_of"]


@dataclass(frozen=True, slots=True)
class ImportedModule:
    """A module that is imported, by its dotted name."""

    name: str


@dataclass(frozen=True, slots=True)
class ImportedName:
    """A name that is imported from a module."""

    module: str
    name: str


Binding = (
    Meaning
    | ImportedModule
    | ImportedName
    | ast.expr
    | ast.FunctionDef
    | ast.AsyncFunctionDef
    | ast.ClassDef
)


@dataclass(eq=False, slots=True)
class Scope:
    """What is bound to names.

    Attributes:
        module: whose scope it is, or stands in.
        parent: where a name is looked for next.
        names: name → all that is bound to it, in order.
        of_class: whether it is a class's, which its functions don't look into.
        owner: the class whose method this is, if it is one.
    """

    module: Module
    parent: Scope | None = None
    names: dict[str, list[Binding]] = field(default_factory=dict)
    of_class: bool = False
    owner: ast.ClassDef | None = None

    def found(self, name: str) -> tuple[list[Binding], Scope] | None:
        """Return what is bound to a name and the scope in which it is; None: nothing here is."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names and (scope is self or not scope.of_class):
                return scope.names[name], scope
            scope = scope.parent
        return None

    def add(self, name: str, binding: Binding) -> None:
        """Note that something is bound to a name."""
        self.names.setdefault(name, []).append(binding)


def bind(statements: Iterable[ast.stmt], scope: Scope) -> None:
    """Note all that some statements bind, those inside of `if`, `try`, `with` and loops included."""
    for statement in statements_below(statements):
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            _bind_import(statement, scope)
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            scope.add(statement.name, statement)
            if not isinstance(statement, ast.ClassDef) and scope.parent is None:
                _bind_globals(statement, scope)
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                for name in targets_of(target):
                    scope.add(name, statement.value)
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if statement.value is not None:
                scope.add(statement.target.id, statement.value)
        elif isinstance(statement, (ast.With, ast.AsyncWith)):
            for item in statement.items:
                if isinstance(item.optional_vars, ast.Name):
                    scope.add(item.optional_vars.id, item.context_expr)


def statements_below(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements and those inside of them, without the bodies of functions and classes."""
    waiting = list(statements)[::-1]
    while waiting:
        statement = waiting.pop()
        yield statement
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        for name in ("finalbody", "orelse", "handlers", "body", "cases"):
            inner = getattr(statement, name, None) or []
            for one in reversed(inner):
                if isinstance(one, ast.stmt):
                    waiting.append(one)
                else:
                    waiting.extend(reversed(one.body))


def targets_of(target: ast.expr) -> Iterator[str]:
    """Yield the names of a target that takes the value as a whole."""
    if isinstance(target, ast.Name):
        yield target.id


def _bind_import(statement: ast.Import | ast.ImportFrom, scope: Scope) -> None:
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            if alias.asname:
                scope.add(alias.asname, ImportedModule(alias.name))
            else:
                root = alias.name.partition(".")[0]
                scope.add(root, ImportedModule(root))
        return
    module = scope.module.absolute(statement.module or "", statement.level)
    for alias in statement.names:
        if alias.name != "*":
            scope.add(alias.asname or alias.name, ImportedName(module, alias.name))


def _bind_globals(function: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope) -> None:
    """Note what a function binds to names that it says are global."""
    names: set[str] = set()
    for statement in statements_below(function.body):
        if isinstance(statement, ast.Global):
            names.update(statement.names)
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                for name in targets_of(target):
                    if name in names:
                        scope.add(name, statement.value)
