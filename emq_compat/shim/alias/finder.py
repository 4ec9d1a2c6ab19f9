"""``install()``: from then on ``import celery`` and ``from celery.x import y`` find the shim.

A finder at the head of ``sys.meta_path`` makes a module of each row of ``table.py`` when it is imported; its
names are looked up in our modules when they are asked for. So nothing is imported before it is needed, and a
name is the very object that the shim has: ``celery.Task is emq_compat.celery_shim.Task``.

A Celery that is there is left alone. One that was imported can't be replaced, since others hold its objects.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from opcode import opmap
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, cast

from emq_compat.errors import ConfigurationError
from emq_compat.shim.public_modules import PUBLIC

if TYPE_CHECKING:
    from importlib.abc import Loader  # at run time it would bring tempfile, zipfile …

__all__ = ["AliasModule", "alias_module", "install", "installed", "public_spec"]

_ORIGIN = "emq_compat.celery_shim"
_IMPORT_FROM = opmap["IMPORT_FROM"]
#: Modules that were asked for where ``celery`` isn't the shim: no import statement finds them.
_loose: dict[str, ModuleType] = {}


def install(force: bool = False) -> bool:
    """Have ``import celery`` find the shim in this process, and ``billiard`` where that is missing.

    Args:
        force: do it although a Celery is installed. One that was imported before stays an error.

    Returns whether ``celery`` is the shim now. False: a Celery is installed, or was imported, and stays.

    Raises:
        ConfigurationError: ``force``, and modules of another ``celery`` are imported already.
    """
    if installed():
        return True
    before = sorted(name for name in sys.modules if name == "celery" or name.startswith("celery."))
    if before and not force:
        return False
    if before:
        raise ConfigurationError(
            f"install(force=True) must come before the first import of celery; imported: {', '.join(before)}"
        )
    if not force and _is_there("celery"):
        return False
    roots = frozenset({"celery"} if _is_there("billiard") else {"celery", "billiard"})
    sys.meta_path.insert(0, _Finder(roots))
    return True


def installed() -> bool:
    """Return whether ``celery`` is the shim in this process."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def _is_there(package: str) -> bool:
    """Whether a package or module of this name can be imported; a mere folder (``./celery/``) is none."""
    if package in sys.modules:
        return True
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def alias_module(name: str) -> ModuleType:
    """Return a module of Celery's (``celery.signals``) as the shim has it, ``install()`` or not.

    Raises:
        ModuleNotFoundError: the shim has no such module.
    """
    if installed():
        return importlib.import_module(name)
    if name.startswith("celery."):
        return importlib.import_module(PUBLIC + name.removeprefix("celery"))
    if name not in _table():
        raise ModuleNotFoundError(f"emq-compat's shim has no {name} (docs/compatibility.md)", name=name)
    if name not in _loose:
        _loose[name] = AliasModule(name, *_table()[name])
    return _loose[name]


def public_spec(name: str) -> ModuleSpec:
    """Return the spec of one of Celery's modules under its name below ``emq_compat.celery_shim``.

    Raises:
        ModuleNotFoundError: the shim has no such module.
    """
    if _celerys(name) not in _table():
        raise ModuleNotFoundError(f"emq-compat's shim has no {name} (docs/compatibility.md)", name=name)
    return ModuleSpec(name, cast("Loader", _Loader()), origin=_ORIGIN, is_package=True)


def _celerys(name: str) -> str:
    """Return Celery's name of a module."""
    return "celery" + name.removeprefix(PUBLIC) if name.startswith(PUBLIC) else name


class AliasModule(ModuleType):
    """A module of Celery's whose names are found in the shim when they are first asked for."""

    def __init__(self, name: str, sources: Sequence[str], names: dict[str, str]) -> None:
        super().__init__(name, f"{name}, as emq-compat has it ({', '.join(sources) or 'names of its own'}).")
        self.__dict__["_sources"] = tuple(sources)
        self.__dict__["_names"] = names

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return self._public()
        if name.startswith("__") and name not in self._names:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        try:
            value = self._found(name)
        except LookupError:
            lacks = f"emq-compat's {self.__name__} has no {name!r}: the shim lacks it (docs/compatibility.md)"
            if _imports_from(sys._getframe(1)):
                raise ImportError(lacks, name=self.__name__) from None
            raise AttributeError(lacks, name=name, obj=self) from None
        self.__dict__[name] = value
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._public()} - {"_sources", "_names"})

    def _found(self, name: str) -> Any:
        """Return what the shim has under a name of this module; raises LookupError."""
        if name in self._names:
            module, _, attribute = self._names[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        for source in self._sources:
            module = importlib.import_module(source)
            if name in module.__all__:
                return getattr(module, name)
        inner = _celerys(f"{self.__name__}.{name}")
        if inner in _table():
            return alias_module(inner)
        raise LookupError(name)

    def _public(self) -> list[str]:
        names = set(self._names)
        for source in self._sources:
            names.update(importlib.import_module(source).__all__)
        return sorted(name for name in names if not name.startswith("_"))


class _Loader:
    """Makes the modules."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module, empty: its names come when they are asked for."""
        sources, names = _table()[_celerys(spec.name)]
        return AliasModule(spec.name, sources, names)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do."""


class _Finder(_Loader):
    """A meta path finder, and the loader of what it finds.

    Args:
        roots: the top-level packages that it answers for.
    """

    def __init__(self, roots: frozenset[str]) -> None:
        self._roots = roots

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module in the table; None for what isn't Celery's.

        Raises:
            ModuleNotFoundError: it would be Celery's, and neither the shim nor a later finder has it.
        """
        root = fullname.partition(".")[0]
        if root not in self._roots:
            return None
        if fullname in _table():
            return ModuleSpec(fullname, cast("Loader", self), origin=_ORIGIN, is_package=True)
        after = sys.meta_path[sys.meta_path.index(self) + 1 :]
        for finder in after:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                return spec
        raise ModuleNotFoundError(
            f"No module named {fullname!r}: emq-compat's shim lacks it (docs/compatibility.md)", name=fullname
        )


def _table() -> dict[str, tuple[tuple[str, ...], dict[str, str]]]:
    """Return the table, which is imported with the first module of Celery's."""
    from emq_compat.shim.alias.table import MODULES  # noqa: PLC0415 - start-up doesn't need it

    return MODULES


def _imports_from(frame: FrameType) -> bool:
    """Whether a frame is executing ``from … import``.

    There an AttributeError becomes an ImportError that says nothing of us; elsewhere (hasattr, getattr) an
    ImportError would be wrong.
    """
    at = frame.f_lasti
    return 0 <= at < len(frame.f_code.co_code) and frame.f_code.co_code[at] == _IMPORT_FROM
