"""Looks for Celery in one Python file: imports, definitions of tasks, calls, attributes, settings."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from emq_compat.migration.calls import Calls
from emq_compat.migration.finding import DIFFERENT, NOT_SEEN, UNSUPPORTED, Finding, Verdict
from emq_compat.migration.meaning import FIXTURES, OWNERS, Meaning
from emq_compat.migration.modules import Module, Modules
from emq_compat.migration.resolve import FunctionNode, Resolver, celery_module, is_fixture
from emq_compat.migration.scopes import Scope, bind
from emq_compat.migration.setting_places import SettingPlaces
from emq_compat.migration.strings import PLUGIN, PLUGIN_VERDICT, name_in_string, package_in_string
from emq_compat.migration.verdicts import Verdicts
from emq_compat.shim.settings import Settings

__all__ = ["Code"]

#: Objects whose attributes are all Celery's: projects add none of their own.
_WHOLLY_LISTED: Final = frozenset({"control", "inspect", "signature", "signal", "result"})
_GUARDS: Final = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "AttributeError"})


class Code:
    """One file.

    Attributes:
        makes_app: whether an app is made in it.

    Args:
        module: the file.
        modules: the code base it is in.
        resolver: what follows names.
        verdicts: the list.
        settings: what knows where settings are.
    """

    def __init__(
        self,
        module: Module,
        modules: Modules,
        resolver: Resolver,
        verdicts: Verdicts,
        settings: SettingPlaces,
    ) -> None:
        self.makes_app = False
        self._module = module
        self._modules = modules
        self._resolver = resolver
        self._verdicts = verdicts
        self._settings = settings
        self._calls = Calls(self, resolver, verdicts, settings)
        self._found: dict[tuple[int, int, str], Finding] = {}
        self._guarded = 0
        self._visitors: dict[type[ast.AST], Callable[[Any, Scope], None]] = {
            ast.Import: self._import,
            ast.ImportFrom: self._import_from,
            ast.FunctionDef: self._function,
            ast.AsyncFunctionDef: self._function,
            ast.ClassDef: self._class,
            ast.Lambda: self._lambda,
            ast.Attribute: self._attribute,
            ast.Name: self._name,
            ast.Call: self._call,
            ast.Assign: self._assign,
            ast.AnnAssign: self._assign,
            ast.AugAssign: self._assign,
            ast.Subscript: self._subscript,
            ast.Constant: self._constant,
            ast.Try: self._try,
        }

    @property
    def path(self) -> Path:
        """The file."""
        return self._module.path

    @property
    def scope(self) -> Scope:
        """What the file binds."""
        return self._module.scope

    def findings(self) -> list[Finding]:
        """Return what was found, in the order of the lines."""
        return sorted(self._found.values())

    def look(self) -> None:
        """Go through the file.

        Raises:
            RecursionError: it is nested too deeply.
        """
        self._each(self._module.tree.body, self._module.scope)

    def add(self, node: ast.AST, kind: str, name: str, verdict: Verdict) -> None:
        """Note a finding where a node stands."""
        line, column = getattr(node, "lineno", 0), getattr(node, "col_offset", -1) + 1
        if isinstance(node, ast.Attribute):  # in a chain over several lines the name may stand below
            line, column = node.end_lineno or line, (node.end_col_offset or 0) - len(node.attr) + 1
        self._found.setdefault(
            (line, column, name),
            Finding(
                path=self._module.path,
                line=line,
                column=column,
                kind=kind,
                name=name,
                status=verdict.status,
                reason=verdict.reason,
            ),
        )

    def not_seen(self, node: ast.AST, name: str, reason: str) -> None:
        """Note that what stands at a node can't be seen."""
        self.add(node, "dynamic", name, Verdict(status=NOT_SEEN, reason=reason))

    def _each(self, nodes: Iterable[ast.AST], scope: Scope) -> None:
        for node in nodes:
            self._visit(node, scope)

    def _visit(self, node: ast.AST, scope: Scope) -> None:
        visitor = self._visitors.get(type(node))
        if visitor is not None:
            visitor(node, scope)
        else:
            self._each(ast.iter_child_nodes(node), scope)

    # Definitions and scopes

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: Scope) -> None:
        self._each(node.decorator_list, scope)
        self._each([*node.args.defaults, *(one for one in node.args.kw_defaults if one)], scope)
        owner = scope.owner if scope.of_class else None
        for parameter in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
            if parameter.annotation is not None:
                self._visit(parameter.annotation, scope)
            is_test = node.name.startswith("test") or is_fixture(node)
            if parameter.arg in FIXTURES and is_test:
                self._fixture(parameter, parameter.arg)
        if node.returns is not None:
            self._visit(node.returns, scope)
        if node.name in FIXTURES and is_fixture(node):
            self._fixture(node, node.name)
        self._each(node.body, self._resolver.inside(node, scope, owner))

    def _fixture(self, node: ast.AST, name: str) -> None:
        listed = self._verdicts.row("testing", name)
        verdict = listed or self._verdicts.imported("celery.contrib.pytest", name)
        self.add(node, "fixture", name, verdict)

    def _class(self, node: ast.ClassDef, scope: Scope) -> None:
        self._each(node.decorator_list, scope)
        self._each(node.bases, scope)
        self._each(node.keywords, scope)
        inner = Scope(scope.module, scope, of_class=True, owner=node)
        bind(node.body, inner)
        kinds = {one.what for base in node.bases if (one := self._resolver.meaning(base, scope)) is not None}
        if "task class" in kinds:
            for statement in node.body:
                targets = statement.targets if isinstance(statement, ast.Assign) else []
                for target in targets:
                    if isinstance(target, ast.Name):
                        self._listed_option(target, target.id)
                if isinstance(statement, FunctionNode):
                    verdict = self._verdicts.row("task", statement.name)
                    if verdict is not None:
                        self.add(statement, "task", statement.name, verdict)
        self._each(node.body, inner)

    def _listed_option(self, node: ast.AST, name: str) -> None:
        verdict = self._verdicts.row("task-option", name)
        if verdict is not None:
            self.add(node, "task option", name, verdict)

    def _lambda(self, node: ast.Lambda, scope: Scope) -> None:
        self._visit(node.body, self._resolver.inside(node, scope))

    def _try(self, node: ast.Try, scope: Scope) -> None:
        guards = {
            name.id
            for handler in node.handlers
            for name in ast.walk(handler.type or ast.Name(id="Exception", ctx=ast.Load()))
            if isinstance(name, ast.Name)
        }
        guarded = bool(guards & _GUARDS)
        self._guarded += guarded
        self._each(node.body, scope)
        self._guarded -= guarded
        self._each([*node.handlers, *node.orelse, *node.finalbody], scope)

    # Imports

    def _import(self, node: ast.Import, scope: Scope) -> None:
        for alias in node.names:
            if alias.name in ("celery", "kombu", "billiard"):
                continue  # what is used of it is judged where it is used
            if celery_module(alias.name) == alias.name and alias.name.startswith("celery."):
                self._imported(alias, alias.name, self._verdicts.module(alias.name))
            else:
                self._other_package(alias, alias.name)

    def _import_from(self, node: ast.ImportFrom, scope: Scope) -> None:
        module = scope.module.absolute(node.module or "", node.level)
        celerys = celery_module(module)
        if celerys is None:
            self._other_package(node, module)
            return
        for alias in node.names:
            if alias.name == "*":
                verdict = self._verdicts.module(celerys)
                if verdict.status != UNSUPPORTED:
                    verdict = Verdict(status=NOT_SEEN, reason="which of its names are used is not seen")
                self._imported(alias, f"{module}:*", verdict)
            elif module == celerys:
                self._of_celery(alias, celerys, alias.name)

    def _of_celery(self, node: ast.AST, module: str, name: str) -> None:
        root = module.partition(".")[0]
        if root == "celery" or self._verdicts.row("import", f"{module}:{name}") is not None:
            self._imported(node, f"{module}:{name}", self._verdicts.imported(module, name))

    def _imported(self, node: ast.AST, name: str, verdict: Verdict) -> None:
        if self._guarded and verdict.status == UNSUPPORTED:
            verdict = Verdict(
                status=DIFFERENT, reason=f"{verdict.reason}; the code here goes on where the import fails"
            )
        self.add(node, "import", name, verdict)

    def _other_package(self, node: ast.AST, module: str) -> None:
        root = module.partition(".")[0]
        if not root or self._modules.is_own(root):
            return
        verdict = self._verdicts.package(root)
        if verdict is None and "celery" in root:
            verdict = Verdict(status=NOT_SEEN, reason="a package that builds on Celery: scan its code, too")
        if verdict is not None:
            self.add(node, "package", root.replace("_", "-"), verdict)

    # Attributes

    def _attribute(self, node: ast.Attribute, scope: Scope) -> None:
        owner = self._resolver.meaning(node.value, scope)
        if owner is None:
            self._visit(node.value, scope)
            return
        self.member(node, owner, node.attr)
        inner: ast.expr = node.value
        while isinstance(inner, ast.Attribute):
            below = self._resolver.meaning(inner.value, scope)
            if below is None or below.what not in ("app", "module"):
                break
            if below.what == "module":
                self._judge_member(inner, below, inner.attr)
            inner = inner.value
        self._visit(inner, scope) if not isinstance(inner, ast.Name) else None

    def member(self, node: ast.AST, owner: Meaning, name: str, asked: bool = False) -> None:
        """Judge ``owner.name``.

        Args:
            asked: whether the code asks if it is there, and goes on if it isn't.
        """
        self._guarded += asked
        self._judge_member(node, owner, name)
        self._guarded -= asked

    def _judge_member(self, node: ast.AST, owner: Meaning, name: str) -> None:
        if owner.what == "module":
            if celery_module(owner.of) != owner.of:
                return  # it is the shim's, with names of its own
            if f"{owner.of}.{name}" not in self._verdicts.modules or self._verdicts.row(
                "import", f"{owner.of}:{name}"
            ):
                self._of_celery(node, owner.of, name)
            return
        if owner.what == "conf":
            if self._settings.is_setting(name):
                self._settings.found(self, node, name, None)
            elif (verdict := self._verdicts.row("app", f"Celery.conf.{name}")) is not None:
                self.add(node, "app", f"Celery.conf.{name}", verdict)
            elif not hasattr(Settings, name):
                self._settings.found(self, node, name, None)
            return
        if owner.what not in OWNERS:
            return
        if owner.what == "app":
            self._app_member(node, f"{owner.of}.{name}" if owner.of else name)
            return
        area, holder, kind = OWNERS[owner.what]
        if owner.what == "tasks":
            holder = "Celery.tasks"
        item, verdict = f"{holder}.{name}" if holder else name, None
        if owner.what in ("signature", "result") and owner.of:
            verdict = self._verdicts.row(area, f"{owner.of}.{name}")
            item = f"{owner.of}.{name}" if verdict is not None else item
        verdict = verdict or self._verdicts.row(area, item)
        if verdict is None and owner.what in ("task", "task class"):
            verdict = self._verdicts.row("task-option", name)
            kind = "task option"
        if verdict is not None:
            self.add(node, kind, item, verdict)
        elif owner.what in _WHOLLY_LISTED and not name.startswith("__"):
            self.not_seen(node, item, "no name of Celery's that is known here")

    def _app_member(self, node: ast.AST, path: str) -> None:
        verdict = self._verdicts.member("app", "Celery", path)
        if verdict is not None:
            self.add(node, "app", f"Celery.{path}", verdict)
        elif path.startswith("_") and not path.startswith("__"):
            self.not_seen(node, f"Celery.{path}", "a private name of the app")

    def _name(self, node: ast.Name, scope: Scope) -> None:
        """A name by itself was judged where it was bound."""

    def _subscript(self, node: ast.Subscript, scope: Scope) -> None:
        owner = self._resolver.meaning(node.value, scope)
        if owner is not None and owner.what == "conf":
            if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
                self._settings.found(self, node, node.slice.value, None)
            elif isinstance(node.ctx, ast.Store):
                self.not_seen(node, "conf[…]", "which setting is set is only known at run time")
        self._each(ast.iter_child_nodes(node), scope)

    # Calls

    def _call(self, node: ast.Call, scope: Scope) -> None:
        self._calls.judge(node, scope)
        self._settings.in_call(self, node, scope)
        self._each(ast.iter_child_nodes(node), scope)

    # Settings and strings

    def _assign(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, scope: Scope) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            self._settings.assigned(self, target, node.value, scope)
        self._each(ast.iter_child_nodes(node), scope)

    def _constant(self, node: ast.Constant, scope: Scope) -> None:
        if not isinstance(node.value, str) or "celery" not in node.value:
            return
        if node.value == PLUGIN:
            self.add(node, "string", PLUGIN, PLUGIN_VERDICT)
        package = package_in_string(node.value)
        if package is not None:
            verdict = self._verdicts.package(package)
            if verdict is not None:
                self.add(node, "package", package.replace("_", "-"), verdict)
        named = name_in_string(node.value, self._verdicts)
        if named is not None:
            verdict = self._verdicts.imported(*named)
            self.add(node, "string", ":".join(named), _in_string(verdict))


def _in_string(verdict: Verdict) -> Verdict:
    if verdict.status == UNSUPPORTED:
        return verdict
    told = "named in a string: `celery_shim.install()` makes it mean the shim, rewriting imports doesn't"
    return Verdict(status=DIFFERENT, reason=f"{verdict.reason}; {told}" if verdict.reason else told)
