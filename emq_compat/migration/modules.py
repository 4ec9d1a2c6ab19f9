"""The Python files of a code base: read when they are asked for, found by the names they are imported by."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from emq_compat.migration.scopes import Scope, bind
from emq_compat.migration.tree import MAX_BYTES

__all__ = ["Module", "Modules", "Unreadable", "parsed"]


class Unreadable(Exception):
    """A file can't be read by this Python: it is Python 2's, or a newer one's.

    Attributes:
        line: where; 0: as a whole.
    """

    def __init__(self, told: str, line: int = 0) -> None:
        super().__init__(told)
        self.line = line


def parsed(path: Path, source: bytes | None = None) -> ast.Module:
    """Return a file's syntax tree.

    Raises:
        Unreadable: it says why.
    """
    try:
        if source is None:
            if path.stat().st_size > MAX_BYTES:
                raise Unreadable(f"larger than {MAX_BYTES // 1_000_000} MB: not read")
            source = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes are the project's own business
            return ast.parse(source, str(path))
    except SyntaxError as exc:
        told = exc.msg or "invalid syntax"
        version = ".".join(map(str, sys.version_info[:2]))
        raise Unreadable(f"Python {version} can't read it: {told}", exc.lineno or 0) from None
    except OSError as exc:
        raise Unreadable(f"can't be opened: {exc.strerror or exc}") from None
    except ValueError as exc:
        raise Unreadable(f"no Python source: {exc}") from None
    except (RecursionError, MemoryError):
        raise Unreadable("nested too deeply to be read") from None


class Module:
    """One file.

    Args:
        path: the file.
        name: the dotted name that its package gives it.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree; empty where it can't be read (``parsed`` says why)."""
        try:
            return parsed(self.path)
        except Unreadable:
            return ast.Module(body=[], type_ignores=[])

    @cached_property
    def scope(self) -> Scope:
        """What it binds."""
        scope = Scope(self)
        bind(self.tree.body, scope)
        return scope

    def absolute(self, name: str, level: int) -> str:
        """Return the absolute name of a module that is imported here, with ``level`` dots before its name."""
        if not level:
            return name
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        for _ in range(level - 1):
            package = package.rpartition(".")[0]
        return ".".join(part for part in (package, name) if part)


class Modules:
    """All files of a code base.

    Args:
        files: its Python files.
        roots: the folders that a scan was asked for.
    """

    def __init__(self, files: Iterable[Path], roots: Sequence[Path]) -> None:
        self._by_path: dict[Path, Module] = {}
        self._by_name: dict[str, Module] = {}
        self._by_end: dict[str, list[Module]] = {}
        self._tops: set[str] = set()
        packages: dict[Path, bool] = {}
        for path in files:
            module = Module(path, _dotted(path, packages))
            self._by_path[path] = module
            self._by_name.setdefault(module.name, module)
            self._tops.add(module.name.partition(".")[0])
            for root in roots:
                if path != root and path.is_relative_to(root):
                    self._by_name.setdefault(_name_below(path, root), module)
            self._by_end.setdefault(module.name.rpartition(".")[2], []).append(module)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._by_path.values())

    def at(self, path: Path) -> Module:
        """Return the module of a file."""
        return self._by_path[path]

    def below(self, folder: Path) -> list[Module]:
        """Return the modules below a folder."""
        return [module for path, module in self._by_path.items() if path.is_relative_to(folder)]

    def packages_of(self, module: Module) -> list[Module]:
        """Return the packages that a module is in, the outermost first; a package is in itself."""
        found: list[Module] = []
        folder = module.path.parent
        while (package := self._by_path.get(folder / "__init__.py")) is not None:
            found.insert(0, package)
            folder = folder.parent
        return found

    def is_own(self, package: str) -> bool:
        """Whether a top-level package or module of this name is part of the code base."""
        return package in self._tops

    def named(self, name: str) -> Module | None:
        """Return the module of a dotted name, as far as one file of the tree is clearly meant."""
        found = self._by_name.get(name)
        if found is not None:
            return found
        near = [one for one in self._by_end.get(name.rpartition(".")[2], ()) if _ends(one, name)]
        return near[0] if len(near) == 1 else None


def _dotted(path: Path, packages: dict[Path, bool]) -> str:
    parts = [] if path.name == "__init__.py" else [path.stem]
    folder = path.parent
    while _is_package(folder, packages):
        parts.append(folder.name)
        if folder.parent == folder:
            break
        folder = folder.parent
    return ".".join(reversed(parts)) or path.parent.name


def _is_package(folder: Path, packages: dict[Path, bool]) -> bool:
    if folder not in packages:
        packages[folder] = (folder / "__init__.py").is_file()
    return packages[folder]


def _name_below(path: Path, root: Path) -> str:
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def _ends(module: Module, name: str) -> bool:
    """Whether a module's file lies where the name says: ``x/src/proj/tasks.py`` is ``proj.tasks``."""
    parts = name.split(".")
    path = module.path.parent if module.path.name == "__init__.py" else module.path.with_suffix("")
    return list(path.parts[-len(parts) :]) == parts
