"""Finds what imports Celery before ``celery_shim.install()`` has run: scripts, and what no app leads to."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emq_compat.migration.modules import Module, Modules
from emq_compat.migration.scopes import statements_below

__all__ = ["Early", "early", "is_test"]

_CELERYS: Final = frozenset({"celery", "billiard"})
_DOTTED: Final = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")
_GUARD: Final = re.compile(rb"^if\s+__name__\s*==\s*[\"']__main__[\"']", re.MULTILINE)
#: A longer way of imports from one file to the next is not followed.
_DEEPEST: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Early:
    """An import that finds no Celery yet.

    Attributes:
        path: the file.
        line: from 1.
        name: what is imported: Celery's, or a module of the project that imports it.
        script: whether the file is a script for certain.
    """

    path: Path
    line: int
    name: str
    script: bool


def early(modules: Modules, ready: Collection[Path]) -> list[Early]:
    """Return each file that needs Celery and may begin before the lines have run, with its first such import.

    Args:
        modules: the code base.
        ready: the files with the lines.
    """
    if not ready:
        return []
    with_lines = {module.path for module in modules if b"celery_shim.install(" in _source(module.path)}
    return sorted(_Order(modules, with_lines.union(ready)).early())


def is_test(path: Path) -> bool:
    """Whether a file is of a project's tests, by its name or its folders'."""
    return bool({"test", "tests", "t"} & set(path.parts[-3:-1])) or path.name.startswith(
        ("test_", "conftest")
    )


@dataclass(frozen=True, slots=True)
class _Import:
    line: int
    name: str


class _Order:
    """In which order the files of a code base import each other."""

    def __init__(self, modules: Modules, ready: Collection[Path]) -> None:
        self._modules = modules
        self._ready = ready
        #: Whether a module that is imported runs the lines first (True), needs Celery first (the import),
        #: or neither (None).
        self._known: dict[Module, bool | _Import | None] = {}
        self._depth = 0
        self._strings: set[str] = set()
        self._of_app = self._led_to()

    def early(self) -> Iterator[Early]:
        """Yield what comes too early."""
        for module in self._modules:
            if module in self._of_app or module.path.suffix == ".pyi":
                continue
            found = self._first(module)
            if found is None:
                found = next(
                    (one for one in _imports(module, ast.walk(module.tree)) if _is_celerys(one)), None
                )
            if isinstance(found, _Import) and not any(self._first(one) for one in self._before(module)):
                script = self._is_script(module)
                yield Early(path=module.path, line=found.line, name=found.name, script=script)

    def _led_to(self) -> set[Module]:
        """Return what stands in the packages with the lines, and what that imports or names in strings."""
        waiting = [
            module
            for module in self._modules
            if any(one.path in self._ready for one in (*self._modules.packages_of(module), module))
        ]
        found: set[Module] = set(waiting)
        while waiting:
            module = waiting.pop()
            nodes = list(ast.walk(module.tree))
            more = [target for one in _imports(module, nodes) for target in self._targets(one)]
            more.extend(target for node in nodes for target in self._in_string(node))
            for one in more:
                if one not in found:
                    found.add(one)
                    waiting.append(one)
        return found

    def _in_string(self, node: ast.AST) -> list[Module]:
        """Return the module that a string names, with all of its package: settings name what is loaded."""
        name = node.value if isinstance(node, ast.Constant) else None
        if not isinstance(name, str):
            return []
        if name in self._strings or _DOTTED.fullmatch(name) is None:
            return []
        self._strings.add(name)
        while (module := self._modules.named(name)) is None and "." in name:
            name = name.rpartition(".")[0]
        if module is None or _is_guarded(module.path):
            return []
        packages = self._modules.packages_of(module)
        return [module, *(self._modules.below(packages[0].path.parent) if packages else ())]

    def _first(self, module: Module) -> bool | _Import | None:
        if module.path in self._ready:
            return True
        if module not in self._known:
            self._known[module] = None  # who imports itself finds nothing new
            if self._depth < _DEEPEST:
                self._depth += 1
                self._known[module] = self._look(module)
                self._depth -= 1
        return self._known[module]

    def _look(self, module: Module) -> bool | _Import | None:
        for one in _imports(module, statements_below(module.tree.body)):
            if _is_celerys(one):
                return one
            for target in self._targets(one):
                found = self._first(target)
                if isinstance(found, _Import) and target in self._of_app:
                    return one
                if found:
                    return True  # or the note is that file's
        return None

    def _targets(self, one: _Import) -> list[Module]:
        """Return what an import runs, in that order."""
        if one.name.partition(".")[0] in sys.stdlib_module_names:
            return []
        module = self._modules.named(one.name)
        return [] if module is None else [*self._modules.packages_of(module), module]

    def _before(self, module: Module) -> Iterator[Module]:
        """Yield what is run before a file that is imported: its packages, and a test's conftest.py."""
        packages = self._modules.packages_of(module)
        yield from (one for one in packages if one is not module)
        if is_test(module.path) and module.path.name != "conftest.py":
            for one in self._modules:
                if one.path.name == "conftest.py" and module.path.is_relative_to(one.path.parent):
                    yield one

    def _is_script(self, module: Module) -> bool:
        if is_test(module.path):
            return False
        if _is_guarded(module.path):
            return True
        if self._modules.packages_of(module):
            return False
        imported = re.compile(
            rb"import\b[^\n]*\b%b\b|from\s[^\n]*\b%b\b" % ((module.path.stem.encode(),) * 2)
        )
        return not any(imported.search(_source(one.path)) for one in self._modules if one is not module)


def _imports(module: Module, nodes: Iterable[ast.AST]) -> Iterator[_Import]:
    """Yield what is imported by some nodes, without what only type checkers read."""
    unread: set[ast.AST] = set()
    for node in nodes:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            unread.update(node.body)
        elif node in unread:
            continue
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield _Import(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            name = module.absolute(node.module or "", node.level)
            yield _Import(node.lineno, name)
            if name.partition(".")[0] not in _CELERYS:
                for alias in node.names:
                    yield _Import(node.lineno, f"{name}.{alias.name}")


def _is_celerys(one: _Import) -> bool:
    return one.name.partition(".")[0] in _CELERYS


def _is_guarded(path: Path) -> bool:
    return _GUARD.search(_source(path)) is not None


def _source(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
