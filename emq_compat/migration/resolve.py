"""Follows names through a code base to what they mean to Celery: aliases, imports, decorators, returns."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from emq_compat.migration.meaning import (
    CALLED,
    FIXTURES,
    FOUND,
    TASK,
    Meaning,
    attribute_of,
    called,
    method_called,
)
from emq_compat.migration.modules import Module, Modules
from emq_compat.migration.scopes import Binding, ImportedModule, ImportedName, Scope, bind, statements_below
from emq_compat.shim.public_modules import PUBLIC

__all__ = [
    "Function",
    "Instance",
    "Klass",
    "LocalModule",
    "Resolver",
    "Thing",
    "celery_module",
    "decorators",
    "is_fixture",
]

#: How many names and calls are followed in a row; code that goes on beyond that is not seen.
_DEPTH: Final = 60
#: Packages whose names are on the list.
_ROOTS: Final = ("celery", "billiard", "kombu")
#: Signals that an app sends itself as the sender of.
_APPS_SIGNALS: Final = frozenset({"on_after_configure", "on_after_finalize", "on_configure", "on_init"})
FunctionNode = (ast.FunctionDef, ast.AsyncFunctionDef)
_TASK_MAKERS: Final = frozenset(
    {
        "celery:shared_task", "celery.app:shared_task", "celery.task:task", "celery:task",
        "celery.decorators:task",
    }
)


@dataclass(frozen=True, slots=True)
class LocalModule:
    """A module of the code base."""

    module: Module


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A function of the code base that is no task."""

    node: ast.FunctionDef | ast.AsyncFunctionDef
    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class Klass:
    """A class of the code base that is nothing of Celery's."""

    node: ast.ClassDef
    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """An instance of such a class."""

    klass: Klass


Thing = Meaning | LocalModule | Function | Klass | Instance


def celery_module(name: str) -> str | None:
    """Return which of Celery's modules a dotted name is, under our name, too; None: it is none."""
    if name == PUBLIC or name.startswith(f"{PUBLIC}."):
        return "celery" + name.removeprefix(PUBLIC)
    return name if name.partition(".")[0] in _ROOTS else None


def decorators(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> list[ast.expr]:
    """Return the decorators of a definition, without their arguments."""
    return [one.func if isinstance(one, ast.Call) else one for one in node.decorator_list]


class Resolver:
    """Says what expressions mean.

    Args:
        modules: the code base.
        known: Celery's modules.
    """

    def __init__(self, modules: Modules, known: frozenset[str]) -> None:
        self._modules = modules
        self._known = known
        self._depth = 0
        #: What was found, also while it is looked for (None): who leads back to itself ends there. An
        #: expression stands in one scope only.
        self._things: dict[ast.expr, Thing | None] = {}
        self._names: dict[tuple[Scope, str], Thing | None] = {}
        self._members: dict[tuple[ast.ClassDef, str], Thing | None] = {}
        self._returned: dict[ast.AST, Thing | None] = {}

    def meaning(self, node: ast.expr, scope: Scope) -> Meaning | None:
        """Return what an expression means to Celery; None: nothing, or it can't be seen."""
        found = self.thing(node, scope)
        return found if isinstance(found, Meaning) else None

    def thing(self, node: ast.expr, scope: Scope) -> Thing | None:
        """Return what an expression stands for, things of the code base included."""
        if isinstance(node, ast.Name):
            return self._name(node.id, scope)
        if node in self._things:
            return self._things[node]
        if self._depth > _DEPTH:
            return None
        self._things[node] = None
        self._depth += 1
        try:
            found = self._things[node] = self._thing(node, scope)
        finally:
            self._depth -= 1
        return found

    def _thing(self, node: ast.expr, scope: Scope) -> Thing | None:
        if isinstance(node, ast.Attribute):
            return self._attribute(node, scope)
        if isinstance(node, ast.Call):
            return self._call(node, scope)
        if isinstance(node, ast.Subscript):
            return self._subscript(node, scope)
        if isinstance(node, (ast.Await, ast.NamedExpr)):
            return self.thing(node.value, scope)
        if isinstance(node, ast.IfExp):
            return self.thing(node.body, scope) or self.thing(node.orelse, scope)
        if isinstance(node, ast.BoolOp):
            return next((one for value in node.values if (one := self.thing(value, scope))), None)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            for side in (node.left, node.right):
                found = self.thing(side, scope)
                if isinstance(found, Meaning) and found.what == "signature":
                    return Meaning("signature", "chain")
        return None

    def _name(self, name: str, scope: Scope) -> Thing | None:
        found = scope.found(name)
        if found is None:
            return None
        bindings, where = found
        if (where, name) not in self._names:
            # Who is led back here meanwhile is told what is imported: `class Task(Task)`.
            self._names[where, name] = next(self._imports(bindings), None)
            things = (self._bound(binding, where) for binding in reversed(bindings))
            self._names[where, name] = next((thing for thing in things if thing is not None), None)
        return self._names[where, name]

    def _imports(self, bindings: Sequence[Binding]) -> Iterator[Thing | None]:
        """Yield what of Celery's some bindings import."""
        for binding in bindings:
            if isinstance(binding, ImportedName) and celery_module(binding.module) is not None:
                yield self._imported(binding.module, binding.name)
            elif isinstance(binding, ImportedModule) and celery_module(binding.name) is not None:
                yield self._module(binding.name)

    def _bound(self, binding: Binding, scope: Scope) -> Thing | None:
        if isinstance(binding, Meaning):
            return binding
        if isinstance(binding, ImportedModule):
            return self._module(binding.name)
        if isinstance(binding, ImportedName):
            return self._imported(binding.module, binding.name)
        if isinstance(binding, FunctionNode):
            return self._function(binding, scope)
        if isinstance(binding, ast.ClassDef):
            return self._class(binding, scope)
        return self.thing(binding, scope)

    def _module(self, name: str) -> Thing | None:
        if celery_module(name) is not None:
            return Meaning("module", name)
        module = self._modules.named(name)
        return LocalModule(module) if module is not None else None

    def _imported(self, module: str, name: str) -> Thing | None:
        celerys = celery_module(module)
        if celerys is not None:
            return self._named(celerys, name)
        inner = self._module(f"{module}.{name}")
        if inner is not None:
            return inner
        found = self._modules.named(module)
        return self._exported(found, name) if found is not None else None

    def _exported(self, module: Module, name: str) -> Thing | None:
        if self._depth > _DEPTH:
            return None
        self._depth += 1
        try:
            return self._name(name, module.scope)
        finally:
            self._depth -= 1

    def _named(self, module: str, name: str) -> Meaning:
        module = celery_module(module) or module
        inner = f"{module}.{name}"
        full = f"{module}:{name}"
        if full in FOUND:
            return FOUND[full]
        if module == "celery.signals":
            return Meaning("signal", name)
        if inner in self._known and full not in CALLED:
            return Meaning("module", inner)
        return Meaning("name", full)

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Thing | None:
        owner = self.thing(node.value, scope)
        if isinstance(owner, Meaning):
            if owner.what == "module":
                return self._named(owner.of, node.attr)
            return attribute_of(owner, node.attr)
        if isinstance(owner, LocalModule):
            inner = self._exported(owner.module, node.attr)
            return inner or self._module(f"{owner.module.name}.{node.attr}")
        if isinstance(owner, Klass):
            return self._member(owner, node.attr)
        if isinstance(owner, Instance):
            return self._member(owner.klass, node.attr)
        return None

    def _member(self, klass: Klass, name: str) -> Thing | None:
        """Return what an attribute of a class, or of ``self`` in it, stands for."""
        if (klass.node, name) not in self._members:
            self._members[klass.node, name] = None
            self._members[klass.node, name] = self._member_of(klass, name)
        return self._members[klass.node, name]

    def _member_of(self, klass: Klass, name: str) -> Thing | None:
        inner = Scope(klass.scope.module, klass.scope, of_class=True)
        bind(klass.node.body, inner)
        if name in inner.names:
            return self._name(name, inner)
        for method in klass.node.body:
            if not isinstance(method, FunctionNode):
                continue
            for statement in statements_below(method.body):
                if isinstance(statement, ast.Assign) and any(
                    isinstance(target, ast.Attribute)
                    and target.attr == name
                    and isinstance(target.value, ast.Name)
                    and target.value.id == "self"
                    for target in statement.targets
                ):
                    found = self.thing(statement.value, self.inside(method, klass.scope, klass.node))
                    if found is not None:
                        return found
        return None

    def _call(self, node: ast.Call, scope: Scope) -> Thing | None:
        if isinstance(node.func, ast.Attribute):
            owner = self.thing(node.func.value, scope)
            if isinstance(owner, Meaning) and owner.what != "module":
                return method_called(owner, node.func.attr)
        if isinstance(node.func, ast.Name) and node.func.id == "super":
            return self._above(scope)
        function = self.thing(node.func, scope)
        if isinstance(function, Meaning):
            if function.what == "name" and function.of in _TASK_MAKERS:
                return TASK
            return called(function)
        if isinstance(function, Function):
            return self._returned_by(function)
        if isinstance(function, Klass):
            return Instance(function)
        return None

    def _above(self, scope: Scope) -> Thing | None:
        """Return what ``super()`` is: a task in a method of a class of tasks."""
        inside: Scope | None = scope
        while inside is not None:
            if inside.owner is not None and not inside.of_class:
                found = self._class(inside.owner, inside.parent or inside)
                return called(found) if isinstance(found, Meaning) else None
            inside = inside.parent
        return None

    def _subscript(self, node: ast.Subscript, scope: Scope) -> Thing | None:
        owner = self.thing(node.value, scope)
        if isinstance(owner, Meaning) and owner.what == "tasks":
            return TASK
        if (
            isinstance(node.value, ast.Attribute)
            and node.value.attr == "extensions"
            and isinstance(node.slice, ast.Constant)
            and node.slice.value == "celery"
        ):
            return Meaning("app")  # where Flask's pattern keeps it
        if isinstance(owner, Meaning) and owner.what == "result":
            return Meaning("result", "AsyncResult")
        return None

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope) -> Thing:
        return TASK if self.is_task(node, scope) else Function(node, scope)

    def is_task(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope) -> bool:
        """Whether a function's decorators make it a task."""
        for decorator in decorators(node):
            if isinstance(decorator, ast.Attribute) and decorator.attr in ("task", "register_task"):
                owner = self.meaning(decorator.value, scope)
                if owner is not None and owner.what == "app" and not owner.of:
                    return True
            found = self.meaning(decorator, scope)
            if found is not None and (found.of in _TASK_MAKERS or found == Meaning("app", "task")):
                return True
        return False

    @staticmethod
    def _hears_of_app(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        """Whether a function is given the app as its sender: ``@app.on_after_configure.connect``."""
        return any(
            isinstance(one, ast.Attribute) and one.attr == "connect"
            and isinstance(one.value, ast.Attribute) and one.value.attr in _APPS_SIGNALS
            for one in decorators(node)
        )  # fmt: skip

    def _class(self, node: ast.ClassDef, scope: Scope) -> Thing:
        for base in node.bases:
            found = self.thing(base, scope)
            if isinstance(found, Meaning) and found.what in ("task class", "app class"):
                return found
        return Klass(node, scope)

    def _returned_by(self, function: Function) -> Thing | None:
        """Return what a function returns, where one of its return statements says."""
        if function.node in self._returned:
            return self._returned[function.node]
        self._returned[function.node] = None  # it may call itself
        scope = self.inside(function.node, function.scope)
        for statement in statements_below(function.node.body):
            value = _given_back(statement)
            if value is not None:
                found = self.thing(value, scope)
                if found is not None:
                    self._returned[function.node] = found
                    break
        return self._returned[function.node]

    def inside(
        self,
        node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda,
        scope: Scope,
        owner: ast.ClassDef | None = None,
    ) -> Scope:
        """Return the scope of a function: its parameters, and what its statements bind.

        Args:
            owner: the class whose method it is.
        """
        inner = Scope(scope.module, scope, owner=owner)
        parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for parameter in parameters:
            inner.names[parameter.arg] = []  # it hides what is outside
            if parameter.annotation is not None:
                annotated = self._annotated(parameter.annotation, scope)
                if annotated is not None:
                    inner.add(parameter.arg, annotated)
            elif (fixture := self._fixture(parameter.arg, scope)) is not None:
                inner.add(parameter.arg, fixture)
        if isinstance(node, ast.Lambda):
            return inner
        if parameters and owner is None and self._hears_of_app(node):
            inner.add(parameters[0].arg, Meaning("app"))
        if parameters and self._gets_task(node, scope, owner):
            inner.add(parameters[0].arg, Meaning("task", "self"))
        elif parameters and owner is not None and parameters[0].arg == "self":
            inner.names["self"] = [_call_of(owner.name)] if self._is_plain(owner, scope) else []
        bind(node.body, inner)
        return inner

    def _fixture(self, name: str, scope: Scope) -> Meaning | None:
        """Return what a pytest fixture of this name gives: Celery's, or one of this module or class."""
        if FIXTURES.get(name) is not None:
            return FIXTURES[name]
        where: Scope | None = scope
        while where is not None:
            for binding in where.names.get(name, ()):
                if isinstance(binding, FunctionNode) and is_fixture(binding):
                    found = self._returned_by(Function(binding, where))
                    return found if isinstance(found, Meaning) else None
            where = where.parent
        return None

    def _is_plain(self, owner: ast.ClassDef, scope: Scope) -> bool:
        return isinstance(self._class(owner, scope), Klass)

    def _gets_task(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope, owner: ast.ClassDef | None
    ) -> bool:
        """Whether a function's first parameter is a task: it is bound, or a method of a class of tasks."""
        if owner is not None:
            kind = self._class(owner, scope)
            static = any(isinstance(one, ast.Name) and one.id == "staticmethod" for one in decorators(node))
            return kind == Meaning("task class") and not static
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and self.is_task(node, scope):
                for keyword in decorator.keywords:
                    if keyword.arg == "bind":
                        return isinstance(keyword.value, ast.Constant) and bool(keyword.value.value)
        return False

    def _annotated(self, annotation: ast.expr, scope: Scope) -> Meaning | None:
        """Return what a parameter is by its annotation."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            try:
                annotation = ast.parse(annotation.value, mode="eval").body
            except (SyntaxError, ValueError):
                return None
        found = self.meaning(annotation, scope)
        return called(found) if found is not None else None


def is_fixture(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function is a pytest fixture by its decorators."""
    return any(
        one.attr == "fixture" if isinstance(one, ast.Attribute) else getattr(one, "id", "") == "fixture"
        for one in decorators(node)
    )


def _call_of(name: str) -> ast.expr:
    """Return an expression that stands for what calling a name gives."""
    return ast.Call(func=ast.Name(id=name, ctx=ast.Load()), args=[], keywords=[])


def _given_back(statement: ast.stmt) -> ast.expr | None:
    """Return what a statement returns, or yields."""
    if isinstance(statement, ast.Return):
        return statement.value
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Yield):
        return statement.value.value
    return None
