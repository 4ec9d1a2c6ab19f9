"""Values of settings that can't be meant: what a worker refuses to start with, and what it warns of."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from emq_compat.shim.annotations import sources_of
from emq_compat.shim.backend import Backend
from emq_compat.shim.backend_kinds import by_url
from emq_compat.shim.checks import interval_of, priority_of
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.loggers import LOG_LEVELS
from emq_compat.shim.retention import seconds_kept
from emq_compat.shim.settings_effect import WITHOUT_EFFECT
from emq_compat.shim.settings_table import SETTINGS
from emq_compat.shim.settings_text import censored_url
from emq_compat.shim.zones import zone_named

if TYPE_CHECKING:
    from emq_compat.shim.settings import Settings

__all__ = ["check_values", "number_in", "odd_values"]

#: Kinds whose values are used as they are: one of another kind would end whatever uses it.
_STRICT: Final = {
    "number": ((int, float), "a number"),
    "mapping": ((Mapping,), "a mapping"),
    "text or list": ((str, list, tuple), "a text or list"),
}
#: How much a name must look like a known one to be taken for a slip.
_MISSPELT = 0.75


def number_in(name: str, value: object) -> int | float | None:
    """Return the number that a text means where the setting ``name`` is a number; None: it is none."""
    if not isinstance(value, str) or not (SETTINGS[name][1] == "number" or name == "result_expires"):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    if not abs(number) < 1e15:  # nor is "nan" or "inf" one that could be meant
        return None
    return int(number) if number.is_integer() and value.strip().lstrip("+-").isdigit() else number


def check_values(conf: Settings) -> None:
    """Refuse values that a worker can't use.

    Raises:
        ImproperlyConfigured: names the first such setting, its value and what is expected.
    """
    changes = conf.changes
    for name, value in changes.items():
        kind = SETTINGS[name][1] if name in SETTINGS else "any"
        if value is None or kind not in _STRICT or name in WITHOUT_EFFECT:
            continue
        types, expected = _STRICT[kind]
        if not isinstance(value, types):
            raise _refused(name, value, expected)
    rate = changes.get("task_default_rate_limit")
    try:
        interval_of(rate)
    except ValueError:
        raise _refused("task_default_rate_limit", rate, "a number, or one with /s, /m or /h,") from None
    _check_logging(changes)
    accepted = changes.get("accept_content")
    if accepted is not None and not isinstance(accepted, Iterable):
        raise _refused("accept_content", accepted, "a list")
    queues = changes.get("task_queues")
    if queues is not None and not isinstance(queues, Iterable):
        raise _refused("task_queues", queues, "a list of queues")
    seconds_kept(conf)
    _check_backend(conf.result_backend)


def _check_logging(changes: Mapping[str, Any]) -> None:
    level = changes.get("worker_redirect_stdouts_level")
    if isinstance(level, str) and level and level.upper() not in LOG_LEVELS:
        raise _refused("worker_redirect_stdouts_level", level, "a level's name")
    for name in ("worker_log_format", "worker_task_log_format"):
        try:
            logging.Formatter(changes.get(name))
        except (TypeError, ValueError):
            raise _refused(name, changes[name], "a format of logging, like '%(message)s',") from None


def _check_backend(backend: object) -> None:
    if backend is None or isinstance(backend, (Backend, type)):
        return
    if not isinstance(backend, str):
        raise _refused("result_backend", backend, "an address")
    try:
        by_url(backend)
    except ImproperlyConfigured as exc:
        raise ImproperlyConfigured(f"setting result_backend is {censored_url(backend)!r}: {exc}") from exc


def _refused(name: str, value: object, expected: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"setting {name} is {value!r}; {expected} is expected")


def odd_values(conf: Settings) -> Iterator[str]:
    """Yield a line for each value that names something which there isn't, with the nearest that there is."""
    changes = conf.changes
    yield from _odd_zone(changes.get("timezone"))
    yield from _odd_serializers(changes)
    priority = changes.get("task_default_priority")
    if isinstance(priority, int):
        try:
            priority_of(priority)
        except ValueError:
            yield f"setting task_default_priority is {priority!r}; 0 to 9 is expected"
    yield from _odd_annotations(changes.get("task_annotations"))


def _odd_zone(zone: object) -> Iterator[str]:
    if not isinstance(zone, str):
        return
    try:
        zone_named(zone)
    except (LookupError, ValueError, OSError):
        from zoneinfo import available_timezones  # noqa: PLC0415 - for mistakes only

        yield f"setting timezone is {zone!r}: there is no such zone{_meant(zone, available_timezones())}"


def _odd_serializers(changes: Mapping[str, Any]) -> Iterator[str]:
    named = [(name, changes.get(name)) for name in ("task_serializer", "result_serializer")]
    for name in ("accept_content", "result_accept_content"):
        accepted = changes.get(name)
        if isinstance(accepted, (list, tuple, set, frozenset)):
            named += [(name, one) for one in accepted]
    named = [(name, one) for name, one in named if isinstance(one, str) and one not in ("", "json")]
    if not named:
        return
    from kombu.serialization import registry  # noqa: PLC0415 - heavy, and only needed here

    known = {*registry.name_to_type, *registry.type_to_name}
    for name, one in named:
        if one not in known:
            near = _meant(str(one), registry.name_to_type)
            yield f"setting {name}: there is no serializer {one!r}{near}"


def _odd_annotations(annotations: Any) -> Iterator[str]:
    from emq_compat.shim.task import Task  # noqa: PLC0415 - it imports the settings

    known = {name for name in dir(Task) if not name.startswith("_")}
    for source in sources_of(annotations):
        if not isinstance(source, Mapping):
            continue
        for task, attributes in source.items():
            for attribute in attributes if isinstance(attributes, Mapping) else ():
                name = str(attribute).removeprefix("@")
                # A project's tasks may have attributes of its own: only what looks like a slip is told.
                if name not in known and (near := _meant(name, known, _MISSPELT)):
                    yield f"task_annotations of {task!r}: a task has no attribute {name!r}{near}"


def _meant(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f": is {near[0]!r} meant?" if near else ""
