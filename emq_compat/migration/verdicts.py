"""What each of Celery's names comes to here: by the list (``items.py``), the settings' tables, the shim.

Nothing is listed here a second time: what the list gains is known at once. A name that the list lacks is
looked for in the shim.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from emq_compat.address import is_kombu
from emq_compat.errors import ConfigurationError
from emq_compat.migration.finding import DIFFERENT, SUPPORTED, UNSUPPORTED, Verdict
from emq_compat.migration.items import PROBE, Item, read_items
from emq_compat.pool.factory import checked_name
from emq_compat.shim.alias.finder import alias_module
from emq_compat.shim.alias.table import MODULES
from emq_compat.shim.backend_kinds import by_url
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.options import unknown_options
from emq_compat.shim.settings_effect import DIFFERENT as DIFFERENT_SETTINGS
from emq_compat.shim.settings_effect import LACKING, WITHOUT_EFFECT
from emq_compat.shim.settings_source import meant
from emq_compat.shim.settings_table import SETTINGS

__all__ = ["OptionsOf", "Verdicts", "setting_named"]

_STATUS: Final = {"supported": SUPPORTED, "different": DIFFERENT, "absent": UNSUPPORTED}
_ORDER: Final = (SUPPORTED, DIFFERENT, UNSUPPORTED)
_LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
_WORD = re.compile(r"`([\w.]+)`")
#: Names that Celery 3 gave to settings → the setting.
_OLD_NAMES: Final = {old: name for name, (_, _, old) in SETTINGS.items() if old}
_OUR_SCHEMES: Final = frozenset({"emq", "emq+ipc", "tcp"})
_BROKERS: Final = frozenset({"broker_url", "broker_read_url", "broker_write_url"})
_SUPPORTED = Verdict(status=SUPPORTED)


#: Returns of a command of ours its options, and whether they have a value; None: there is no such command.
OptionsOf = Callable[[str], "Mapping[str, bool] | None"]


class Verdicts:
    """The list, by area and item.

    Args:
        options_of: what the command line has; without it only what the list says of it is known.
        items: the list; by default that of the package.
    """

    def __init__(self, options_of: OptionsOf | None = None, items: Iterable[Item] | None = None) -> None:
        self._options_of = options_of or _unknown
        self._rows: dict[tuple[str, str], Item] = {}
        self._said: dict[tuple[str, str], Item] = {}
        for row in read_items() if items is None else items:
            if row.check == PROBE or ("`" not in row.item and " " not in row.item):
                self._rows[row.area, row.item] = row
            else:
                for word in _WORD.findall(row.item):
                    self._said.setdefault((row.area, word), row)
        self.modules = frozenset(MODULES) | {
            item.partition(":")[0] for area, item in self._rows if area == "import"
        }
        self.commands = frozenset(item for area, item in self._rows if area == "command")
        self._worker_options = {
            name: row
            for (area, item), row in self._rows.items()
            if area == "worker"
            for name in item.split(" / ")
        }

    def row(self, area: str, item: str) -> Verdict | None:
        """Return what the list says of an item; None: it isn't listed."""
        row = self._rows.get((area, item)) or self._said.get((area, item))
        if row is None:
            return None
        return _of_row(row)

    def module(self, module: str) -> Verdict:
        """Return what ``import module`` comes to."""
        if module in MODULES:
            return _SUPPORTED
        reasons = {
            _of_row(row).reason for (area, item), row in self._rows.items()
            if area == "import" and item.partition(":")[0] == module and row.status == "absent"
        }  # fmt: skip
        told = f"neither the list of Celery's names nor the shim has a module {module}"
        return Verdict(status=UNSUPPORTED, reason=_one_of(reasons) or told)

    def imported(self, module: str, name: str) -> Verdict:
        """Return what ``from module import name`` comes to."""
        inner = f"{module}.{name}"
        listed = self.row("import", f"{module}:{name}")
        if listed is None and inner in self.modules:
            return self.module(inner)
        if listed is None and module in MODULES:
            listed = _in_shim(module, name)
        if listed is None:
            known = self.module(module)
            told = f"neither the list of Celery's names nor the shim has a {name} in {module}"
            listed = known if known.status == UNSUPPORTED else Verdict(status=UNSUPPORTED, reason=told)
        if module == "celery.signals":
            listed = _worse(listed, self.row("signal", name))
        return listed

    def member(self, area: str, owner: str, path: str) -> Verdict | None:
        """Return what ``owner.path`` comes to (``app``, ``Celery``, ``amqp.queues``); None: not on the list.

        A path that goes beyond the list is what its beginning is.
        """
        parts = path.split(".")
        for end in range(len(parts), 0, -1):
            item = ".".join(parts[:end])
            found = self.row(area, f"{owner}.{item}" if owner else item)
            if found is not None:
                return found
        return None

    def parameter(self, area: str, call: str, name: str) -> Verdict | None:
        """Return what an argument of a call comes to; None: not on the list."""
        return self.row(area, f"{call}({name}=)")

    def call_option(self, name: str) -> Verdict:
        """Return what an option of ``apply_async`` (``set``, ``send_task`` …) comes to."""
        listed = self.parameter("task", "apply_async", name)
        if listed is not None:
            return listed
        for told in unknown_options({name: 0}):
            return Verdict(status=UNSUPPORTED, reason=f"a TypeError here, Celery ignores it: {told}")
        return _SUPPORTED

    def task_option(self, name: str) -> Verdict:
        """Return what an option of a task comes to; one of the project's own is an attribute of the task."""
        return self.row("task-option", name) or _SUPPORTED

    def setting(self, name: str, value: Any = None) -> Verdict:
        """Return what a setting comes to.

        Args:
            name: Celery's name for it (``setting_named``), or what was written where there is none.
            value: what it is set to, where that is written there; None: not known.
        """
        if name not in SETTINGS:
            told = f"there is no such setting{meant(name)}; a worker says so at its start"
            return Verdict(status=DIFFERENT, reason=told)
        odd = _odd_value(name, value)
        if odd is not None:
            return odd
        if name in WITHOUT_EFFECT:
            status = UNSUPPORTED if name in LACKING else DIFFERENT
            return Verdict(status=status, reason=f"without effect: {WITHOUT_EFFECT[name]}")
        if name in DIFFERENT_SETTINGS:
            return Verdict(status=DIFFERENT, reason=DIFFERENT_SETTINGS[name])
        return _SUPPORTED

    def command(self, name: str) -> Verdict:
        """Return what ``celery NAME`` comes to."""
        listed = self.row("command", name)
        if listed is not None:
            return listed
        if self._options_of(name) is not None:
            return _SUPPORTED
        return Verdict(status=UNSUPPORTED, reason=f"there is no command {name}")

    def option(self, command: str, option: str, value: str | None = None) -> Verdict:
        """Return what an option of a command comes to (``worker``, ``-P``, ``gevent``)."""
        if option in ("-P", "--pool") and value is not None:
            try:
                checked_name(value)
            except ConfigurationError as exc:
                return Verdict(status=UNSUPPORTED, reason=str(exc))
        if option in ("-b", "--broker") and value is not None:
            odd = _odd_value("broker_url", value)
            if odd is not None:
                return odd
        if command == "worker" and option in self._worker_options:
            return _of_row(self._worker_options[option])
        taken = self._options_of(command)
        if taken is None or option in taken:
            return _SUPPORTED
        return Verdict(status=UNSUPPORTED, reason=f"`emq-compat {command}` has no option {option}")

    def takes_value(self, command: str, option: str) -> bool | None:
        """Return whether an option of a command has a value; None: it isn't known here."""
        return (self._options_of(command) or {}).get(option)

    def package(self, name: str) -> Verdict | None:
        """Return what the list says of a distribution by its name; None: nothing."""
        wanted = name.lower().replace("_", "-")
        for (area, item), row in self._rows.items():
            if area in ("django", "package") and wanted in re.split(r"[,\s`]+", item.lower()):
                return _of_row(row)
        return None


def setting_named(text: str, namespace: str = "") -> str | None:
    """Return Celery's name of a setting that is written as ``text``, old names included; None: it is none.

    Args:
        namespace: a prefix that may stand before it (``CELERY``).
    """
    if text in SETTINGS:
        return text
    if text in _OLD_NAMES:
        return _OLD_NAMES[text]
    prefix = f"{namespace}_" if namespace else ""
    if prefix and text.lower().startswith(prefix.lower()):
        plain = text[len(prefix) :].lower()
        if plain in SETTINGS:
            return plain
    if text.isupper() and text.lower() in SETTINGS:
        return text.lower()
    return None


def _of_row(row: Item) -> Verdict:
    return Verdict(status=_STATUS[row.status], reason=_LINK.sub(r"\1 (docs/\2)", row.note))


def _unknown(command: str) -> None:
    return None


def _in_shim(module: str, name: str) -> Verdict | None:
    """Look for a name in the shim itself; None: it isn't there."""
    try:
        found = getattr(alias_module(module), name)
    except (AttributeError, ImportError):
        return None
    if getattr(found, "__unsupported__", False) is True:
        told = "it can be imported, and using it is an error that says why"
        return Verdict(status=UNSUPPORTED, reason=told)
    return _SUPPORTED


def _odd_value(name: str, value: Any) -> Verdict | None:
    """Return what is to be said of a setting's value, if anything is."""
    if not isinstance(value, str) or not value:
        return None
    scheme = value.partition("://")[0]
    if name in _BROKERS and "://" in value and scheme not in _OUR_SCHEMES and not is_kombu(value):
        told = f"the address of a broker is needed, emq://HOST for instance: {scheme}:// is not served"
        return Verdict(status=DIFFERENT, reason=told)
    if name == "result_backend" and ("://" in value or value.isidentifier()):
        try:
            by_url(value)
        except ImproperlyConfigured as exc:
            return Verdict(status=UNSUPPORTED, reason=str(exc))
    if name == "worker_pool" and value.isidentifier():
        try:
            checked_name(value)
        except ConfigurationError as exc:
            return Verdict(status=UNSUPPORTED, reason=str(exc))
    return None


def _worse(one: Verdict, other: Verdict | None) -> Verdict:
    if other is None or _ORDER.index(other.status) <= _ORDER.index(one.status):
        return one
    return other


def _one_of(reasons: set[str]) -> str:
    return min(reasons) if reasons else ""
