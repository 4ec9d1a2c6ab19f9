"""Where a code base keeps settings: on ``app.conf``, in modules, classes and dicts, under a namespace."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from emq_compat.migration.finding import NOT_SEEN, Verdict
from emq_compat.migration.meaning import Meaning
from emq_compat.migration.modules import Module, Modules
from emq_compat.migration.resolve import Instance, Klass, LocalModule, Resolver
from emq_compat.migration.scopes import Scope, statements_below
from emq_compat.migration.verdicts import Verdicts, setting_named

if TYPE_CHECKING:
    from emq_compat.migration.code import Code

__all__ = ["SettingPlaces", "written_value"]

#: Settings whose value decides what they come to.
_BY_VALUE: Final = frozenset(
    {"broker_url", "broker_read_url", "broker_write_url", "result_backend", "worker_pool"}
)
#: What Celery reads without being told to.
_DEFAULT_MODULE: Final = "celeryconfig"


class SettingPlaces:
    """What of a code base is settings.

    Args:
        modules: the code base.
        resolver: what follows names.
        verdicts: the list.
        namespaces: prefixes of settings that the code base names (``CELERY``).
    """

    def __init__(
        self, modules: Modules, resolver: Resolver, verdicts: Verdicts, namespaces: Iterable[str]
    ) -> None:
        self._modules = modules
        self._resolver = resolver
        self._verdicts = verdicts
        self._namespaces = tuple(dict.fromkeys(["CELERY", *namespaces]))
        #: Modules and classes that hold settings → their namespace.
        self.sources: dict[Module | Klass, str] = {}
        default = modules.named(_DEFAULT_MODULE)
        if default is not None:
            self.sources[default] = ""

    def is_setting(self, name: str) -> bool:
        """Whether a name is that of a setting, an old one included."""
        return setting_named(name) is not None

    def found(
        self, code: Code, node: ast.AST, written: str, value: ast.expr | None, namespace: str = ""
    ) -> None:
        """Judge a setting.

        Args:
            code: whose finding it is.
            node: where it stands.
            written: its name as it is written.
            value: what it is set to; None: it is only read.
        """
        name = setting_named(written, namespace)
        text = written_value(value, code.scope) if value is not None else None
        code.add(node, "setting", name or written, self._verdicts.setting(name or written, text))
        if value is None:
            return
        if name in _BY_VALUE and text is None and not _is_none(value):
            told = "its value is only known at run time: an address of emq-compat's is needed"
            if name == "result_backend":
                told = "its value is only known at run time: docs/compatibility.md has the backends there are"
            code.add(value, "dynamic", f"{name} = …", Verdict(status=NOT_SEEN, reason=told))
        if name == "beat_schedule":
            self._entries(code, value)

    def _entries(self, code: Code, schedule: ast.expr) -> None:
        """Judge the options with which a schedule's entries are published."""
        entries = schedule.values if isinstance(schedule, ast.Dict) else []
        for entry in entries:
            if not isinstance(entry, ast.Dict):
                continue
            for key, value in zip(entry.keys, entry.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "options" and isinstance(value, ast.Dict):
                    for option in value.keys:
                        if isinstance(option, ast.Constant) and isinstance(option.value, str):
                            verdict = self._verdicts.call_option(option.value)
                            code.add(option, "call", f"apply_async({option.value}=)", verdict)

    # Assignments

    def assigned(self, code: Code, target: ast.expr, value: ast.expr | None, scope: Scope) -> None:
        """Judge an assignment, where it sets a setting."""
        if isinstance(target, ast.Attribute):
            owner = self._resolver.meaning(target.value, scope)
            if owner is not None and owner.what == "conf":
                self.found(code, target, target.attr, value)
        elif isinstance(target, ast.Subscript):
            key = target.slice.value if isinstance(target.slice, ast.Constant) else None
            owner = self._resolver.meaning(target.value, scope)
            if owner is not None and owner.what == "conf":
                if isinstance(key, str):
                    self.found(code, target, key, value)
            elif isinstance(key, str):
                self._under_prefix(code, target, key, value, scope)
        elif isinstance(target, ast.Name) and (scope.parent is None or scope.of_class):
            self._under_prefix(code, target, target.id, value, scope)

    def _under_prefix(
        self, code: Code, node: ast.AST, name: str, value: ast.expr | None, scope: Scope
    ) -> None:
        """Judge a name that begins as a namespace, or an old setting's name, does (``CELERY_…``)."""
        for namespace in self._namespaces:
            if name == namespace and value is not None:
                mapping = self._mapping(value, scope)
                if mapping is not None:
                    self._in_mapping(code, mapping, scope)
                return
            if name.startswith(f"{namespace}_") or (namespace == "CELERY" and name.startswith("CELERY")):
                known = setting_named(name, namespace)
                if known is not None or name.startswith(f"{namespace}_"):
                    self.found(code, node, name, value, namespace)
                return

    # Calls

    def in_call(self, code: Code, node: ast.Call, scope: Scope) -> None:
        """Judge a call, where it gives settings."""
        if not isinstance(node.func, ast.Attribute):
            return
        method = node.func.attr
        owner = self._resolver.meaning(node.func.value, scope)
        if owner is None or owner.what not in ("conf", "app"):
            self._given_to_framework(code, node, method, scope)
        elif owner.what == "conf" and method in ("update", "add_defaults"):
            self._given(code, node, scope)
        elif owner.what == "conf" and method in ("setdefault", "__setitem__") and node.args:
            self._keyed(code, node)
        elif owner == Meaning("app") and method == "add_defaults":
            self._given(code, node, scope)
        elif owner == Meaning("app") and method in ("config_from_object", "config_from_envvar"):
            self._source(code, node, method, scope)

    def _given(self, code: Code, node: ast.Call, scope: Scope) -> None:
        for argument in node.args:
            mapping = self._mapping(argument, scope)
            if mapping is not None:
                self._in_mapping(code, mapping, scope)
            elif not self._from(argument, "", scope):
                told = "which settings are given is only known at run time"
                code.add(argument, "dynamic", "conf.update(…)", Verdict(status=NOT_SEEN, reason=told))
        self._in_mapping(code, node, scope)

    def _keyed(self, code: Code, node: ast.Call) -> None:
        key = node.args[0]
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            self.found(code, node, key.value, node.args[1] if len(node.args) > 1 else None)

    def _source(self, code: Code, node: ast.Call, method: str, scope: Scope) -> None:
        namespace = next((one.value for one in node.keywords if one.arg == "namespace"), None)
        prefix = namespace.value if isinstance(namespace, ast.Constant) else ""
        given = node.args[0] if node.args else next((o.value for o in node.keywords if o.arg == "obj"), None)
        if given is None or (method == "config_from_object" and self._from(given, str(prefix or ""), scope)):
            return
        mapping = self._mapping(given, scope)
        if mapping is not None:
            self._in_mapping(code, mapping, scope, str(prefix or ""))
            return
        told = "where the settings are is only known at run time"
        if _names_framework(given):
            return  # what has the prefix is found wherever it stands
        code.add(given, "dynamic", f"{method}(…)", Verdict(status=NOT_SEEN, reason=told))

    def _from(self, given: ast.expr, namespace: str, scope: Scope) -> bool:
        """Note a module or a class that holds settings; returns whether there is one."""
        found: object = None
        if isinstance(given, ast.Constant) and isinstance(given.value, str):
            found = self._named(given.value)
            if found is None and given.value.startswith("django.conf"):
                return True
        else:
            found = self._resolver.thing(given, scope)
        if isinstance(found, LocalModule):
            self.sources[found.module] = namespace
        elif isinstance(found, (Klass, Instance)):
            self.sources[found.klass if isinstance(found, Instance) else found] = namespace
        else:
            return False
        return True

    def _named(self, path: str) -> object:
        """Return what ``module``, ``module:attribute`` or ``module.attribute`` names in the code base."""
        module, _, attribute = path.partition(":")
        whole = self._modules.named(module)
        if whole is not None and not attribute:
            return LocalModule(whole)
        if not attribute:
            module, _, attribute = path.rpartition(".")
            whole = self._modules.named(module)
        if whole is None or not attribute:
            return None
        return self._resolver.thing(ast.Name(id=attribute, ctx=ast.Load()), whole.scope)

    def _given_to_framework(self, code: Code, node: ast.Call, method: str, scope: Scope) -> None:
        """Judge ``app.config.from_mapping(CELERY=dict(…))`` and its like."""
        if method not in ("from_mapping", "update", "configure"):
            return
        for keyword in node.keywords:
            if keyword.arg is not None and keyword.arg.startswith(self._namespaces):
                self._under_prefix(code, keyword, keyword.arg, keyword.value, scope)
        for argument in node.args:
            if isinstance(argument, ast.Dict):
                for key, value in zip(argument.keys, argument.values, strict=True):
                    name = key.value if isinstance(key, ast.Constant) else None
                    if isinstance(name, str) and name.startswith(self._namespaces) and key is not None:
                        self._under_prefix(code, key, name, value, scope)

    # Mappings, modules and classes

    def _mapping(self, node: ast.expr, scope: Scope) -> ast.Dict | ast.Call | None:
        """Return a dict that is written there, or bound to the name there."""
        if isinstance(node, ast.Dict):
            return node
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
            return node
        if isinstance(node, ast.Name):
            found = scope.found(node.id)
            bindings, where = found if found is not None else ([], scope)
            for binding in reversed(bindings):
                if isinstance(binding, ast.expr) and not isinstance(binding, ast.Name):
                    return self._mapping(binding, where)
        return None

    def _in_mapping(
        self, code: Code, mapping: ast.Dict | ast.Call, scope: Scope, namespace: str = ""
    ) -> None:
        told = Verdict(status=NOT_SEEN, reason="which settings are given is only known at run time")
        if isinstance(mapping, ast.Call):
            for keyword in mapping.keywords:
                if keyword.arg is None:
                    inner = self._mapping(keyword.value, scope)
                    if inner is not None:
                        self._in_mapping(code, inner, scope, namespace)
                    else:
                        code.add(keyword, "dynamic", "**…", told)
                else:
                    self.found(code, keyword, keyword.arg, keyword.value, namespace)
            return
        for key, value in zip(mapping.keys, mapping.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                self.found(code, key, key.value, value, namespace)
            else:
                code.add(value, "dynamic", "{…}", told)

    def in_source(self, code: Code, source: Module | Klass, namespace: str) -> None:
        """Judge all settings of a module or a class that is known to hold them."""
        body = source.tree.body if isinstance(source, Module) else source.node.body
        for statement in statements_below(body):
            for target, value in _assignments(statement):
                name = setting_named(target.id, namespace)
                if namespace:
                    if target.id.startswith(f"{namespace}_"):
                        self.found(code, target, target.id, value, namespace)
                elif name is not None:
                    self.found(code, target, target.id, value)


def _assignments(statement: ast.stmt) -> Iterator[tuple[ast.Name, ast.expr]]:
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, ast.Name):
                yield target, statement.value
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        yield statement.target, statement.value


def written_value(node: ast.expr, scope: Scope | None = None) -> str | None:
    """Return the text that an expression gives, or begins with; None: it isn't written there.

    Of ``os.environ.get("X", "redis://…")`` that is the default.
    """
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return written_value(node.values[0]) if node.values else ""
    if isinstance(node, ast.BinOp):
        return written_value(node.left, scope)
    if isinstance(node, ast.BoolOp):
        return next((text for value in node.values if (text := written_value(value, scope))), None)
    if isinstance(node, ast.Call):
        given = [*node.args, *(one.value for one in node.keywords)]
        texts = (written_value(one, scope) for one in given[1:] or given)
        return next((text for text in texts if text and ("://" in text or len(given) > 1)), None)
    if isinstance(node, ast.Name) and scope is not None:
        found = scope.found(node.id)
        for binding in reversed(found[0] if found else []):
            if isinstance(binding, ast.expr) and not isinstance(binding, ast.Name):
                return written_value(binding)
    return None


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _names_framework(node: ast.expr) -> bool:
    """Whether a source is a framework's: Django's ``settings``, Flask's ``app.config["CELERY"]``."""
    text = ast.unparse(node)
    return text == "settings" or text.endswith(".settings") or ".config" in text
