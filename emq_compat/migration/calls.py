"""Judges the calls of a file: options of tasks and of what is published, arguments of Celery's methods."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

from emq_compat.migration.finding import DIFFERENT, UNSUPPORTED
from emq_compat.migration.meaning import CALLED, OWNERS, Meaning
from emq_compat.migration.resolve import Resolver, celery_module
from emq_compat.migration.scopes import Scope
from emq_compat.migration.setting_places import SettingPlaces
from emq_compat.migration.verdicts import Verdicts

if TYPE_CHECKING:
    from emq_compat.migration.code import Code

__all__ = ["Calls"]

#: Methods whose very name says that a task is meant.
_TELLING: Final = frozenset({"delay", "apply_async"})
#: Options of `signature()` and of a task's decorator that are no options of a call.
_OWN_ARGUMENTS: Final = frozenset({"args", "kwargs", "options", "type", "subtask_type", "immutable", "app"})

class Calls:
    """The calls of one file.

    Args:
        code: the file, which notes what is found.
        resolver: what follows names.
        verdicts: the list.
        settings: what knows where settings are.
    """

    def __init__(
        self, code: Code, resolver: Resolver, verdicts: Verdicts, settings: SettingPlaces
    ) -> None:
        self._code = code
        self._resolver = resolver
        self._verdicts = verdicts
        self._settings = settings

    def judge(self, node: ast.Call, scope: Scope) -> None:
        """Judge a call by what is called."""
        function = node.func
        if isinstance(function, ast.Attribute):
            owner = self._resolver.meaning(function.value, scope)
            if owner is not None and owner.what != "module":
                self._method(node, function, owner, scope)
                return
            found = self._resolver.thing(function, scope)
            if found is None and function.attr in _TELLING and owner is None:
                self._unknown_receiver(node, function)
        meaning = self._resolver.meaning(function, scope)
        if meaning is None:
            self._by_name(node, scope)
        elif meaning.what == "app class":
            self._made(node)
        elif meaning.what == "name" and meaning.of.endswith((":shared_task", ":task")):
            self._task_options(node)
        elif meaning.what == "name" and meaning.of in CALLED and meaning.of.startswith("celery.result:"):
            return
        elif meaning == Meaning("app", "task"):
            self._task_options(node)
        elif meaning.what == "name" and meaning.of.endswith((":signature", ":subtask")):
            self._options(node, "signature", "workflow", own=_OWN_ARGUMENTS)

    def _by_name(self, node: ast.Call, scope: Scope) -> None:
        """Judge calls of Python that can lead to Celery's names."""
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in ("getattr", "hasattr", "setattr", "delattr") and len(node.args) > 1:
            owner = self._resolver.meaning(node.args[0], scope)
            if owner is None:
                return
            wanted = node.args[1]
            if isinstance(wanted, ast.Constant) and isinstance(wanted.value, str):
                self._code.member(node, owner, wanted.value, asked=name == "hasattr" or len(node.args) > 2)
            elif owner.what != "request":
                told = f"which attribute of a {owner.what} is only known at run time"
                self._code.not_seen(node, f"{name}()", told)
        elif name in ("import_module", "__import__") and node.args:
            wanted = node.args[0]
            if not isinstance(wanted, ast.Constant):
                self._code.not_seen(node, f"{name}()", "which module is imported is only known at run time")
            elif isinstance(wanted.value, str) and celery_module(wanted.value) == wanted.value:
                told = f"what is used of {wanted.value}, imported by a call, is only known at run time"
                self._code.not_seen(node, f"{name}()", told)

    def _unknown_receiver(self, node: ast.Call, function: ast.Attribute) -> None:
        shown = ast.unparse(function)
        if len(shown) > 60:
            shown = f"….{function.attr}"
        self._code.not_seen(function, f"{shown}()", "whose method this is, is only known at run time")
        if function.attr == "apply_async":
            self._options(node, "apply_async", "call", only_odd=True)

    def _method(self, node: ast.Call, function: ast.Attribute, owner: Meaning, scope: Scope) -> None:
        name = function.attr
        if owner.what == "app" and name == "task" and not owner.of:
            self._task_options(node)
        elif owner.what == "task" and name == "retry":
            self._options(node, "retry", "call", area="retry")
        elif (owner.what == "signature" and name == "set") or name in ("apply_async", "signature", "subtask"):
            if owner.what in ("task", "task class", "signature", "app"):
                self._options(node, "apply_async" if name == "set" else name, "call", own=_OWN_ARGUMENTS)
        elif owner.what == "app" and name == "send_task":
            self._options(node, "Celery.send_task", "call", area="app", own=_OWN_ARGUMENTS | {"name"})
        elif owner.what in OWNERS:
            self._parameters(node, owner, name)

    def _parameters(self, node: ast.Call, owner: Meaning, name: str) -> None:
        """Judge the arguments that a call names, as far as they are listed."""
        area, holder, kind = OWNERS[owner.what]
        if owner.what == "app" and owner.of:
            holder = f"Celery.{owner.of}"
        if owner.what in ("result", "signature"):
            holder = owner.of or holder
        call = f"{holder}.{name}" if holder else name
        for keyword in node.keywords:
            if keyword.arg is not None:
                verdict = self._verdicts.parameter(area, call, keyword.arg)
                if verdict is not None:
                    self._code.add(keyword, kind, f"{call}({keyword.arg}=)", verdict)

    def _options(
        self,
        node: ast.Call,
        call: str,
        kind: str,
        area: str = "task",
        own: frozenset[str] = frozenset(),
        only_odd: bool = False,
    ) -> None:
        """Judge the options of a call that publishes."""
        for keyword in node.keywords:
            if keyword.arg is None:
                if isinstance(keyword.value, ast.Dict):
                    continue
                if not only_odd:
                    self._code.not_seen(
                        keyword, f"{call}(**…)", "which options are given is only known at run time"
                    )
                continue
            listed = self._verdicts.parameter(area, call, keyword.arg)
            if listed is None and (only_odd or keyword.arg in own):
                continue
            verdict = listed or self._verdicts.call_option(keyword.arg)
            if not only_odd or verdict.status in (UNSUPPORTED, DIFFERENT):
                self._code.add(keyword, kind, f"{call}({keyword.arg}=)", verdict)

    def _task_options(self, node: ast.Call) -> None:
        for keyword in node.keywords:
            if keyword.arg is None:
                self._code.not_seen(keyword, "task(**…)", "which options are given is only known at run time")
            else:
                self._code.add(keyword, "task option", keyword.arg, self._verdicts.task_option(keyword.arg))

    def _made(self, node: ast.Call) -> None:
        """Judge the arguments of an app that is made; settings among them are the settings' part."""
        self._code.makes_app = True
        for keyword in node.keywords:
            if keyword.arg is None:
                self._code.not_seen(
                    keyword, "Celery(**…)", "which arguments are given is only known at run time"
                )
                continue
            verdict = self._verdicts.parameter("app", "Celery", keyword.arg)
            if verdict is not None:
                self._code.add(keyword, "app", f"Celery({keyword.arg}=)", verdict)
            setting = {"broker": "broker_url", "backend": "result_backend"}.get(keyword.arg, keyword.arg)
            if verdict is None or setting != keyword.arg:
                self._settings.found(self._code, keyword, setting, keyword.value)
