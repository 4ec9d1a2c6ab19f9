"""The nodes of ``emq-compat multi``: names, or a number of them, with their options. No process is touched.

``3 -c 2 -c:1 10`` are three nodes, of which the first has ``-c 10``; ``-Q:1-3 images`` and
``-l:foo,bar info`` say the option for some nodes. Numbers mean places in the list of names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from emq_compat.cli.node_name import node_name
from emq_compat.errors import ConfigurationError

__all__ = ["Node", "Written", "nodes_of", "read"]

#: Options that stand before the command ``worker``.
_BEFORE_WORKER = frozenset({
    "-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir", "-C",
    "--no-color", "-q", "--quiet", "--skip-checks",
})  # fmt: skip
_PIDFILE = ("--pidfile", "-p")
_LOGFILE = ("--logfile", "-f")
_PIDFILE_DEFAULT = "/var/run/celery/%n.pid"
_LOGFILE_DEFAULT = "/var/log/celery/%n%I.log"
_MARK = re.compile(r"%(.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A command line: names, options, those for some nodes only, and what stands behind ``--``."""

    names: tuple[str, ...]
    options: Mapping[str, str | None]
    of_some: Mapping[str, Mapping[str, str | None]]
    rest: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A worker that is to be started or ended.

    Attributes:
        name: ``name@host``.
        argv: the command that starts it, the interpreter first.
        pidfile, logfile: their paths.
        own_command: whether that command is this program's ``worker``.
    """

    name: str
    argv: tuple[str, ...]
    pidfile: str
    logfile: str
    own_command: bool

    def expanded(self, template: str) -> str:
        """Return a text with ``%n`` (the name's first part), ``%h`` (all of it) and ``%d`` (the host)."""
        short, _, host = self.name.partition("@")
        return _expanded(template, short, host, self.name)


def read(words: Iterable[str], takes_value: Collection[str]) -> Written:
    """Read a command line.

    Args:
        words: what stands behind the command of multi.
        takes_value: options of the worker that take a value; of others, a short one takes the next word,
            unless that begins with a minus, and a long one has its value behind ``=``.

    Raises:
        ConfigurationError: a ``:`` names no nodes.
    """
    names: list[str] = []
    options: dict[str, str | None] = {}
    of_some: dict[str, dict[str, str | None]] = {}
    rest: tuple[str, ...] = ()
    left = [word for word in words if word]
    while left:
        word = left.pop(0)
        if word == "--":
            rest = tuple(left)
            break
        if not word.startswith("-") or word == "-":
            names.append(word)
            continue
        option, equals, given = word.partition("=") if word.startswith("--") else (word, "", "")
        option, colon, some = option.partition(":")
        value: str | None = given if equals else None
        known = option in takes_value
        if value is None and left and (known or not (word.startswith("--") or left[0].startswith("-"))):
            value = left.pop(0)
        if colon and not some:
            raise ConfigurationError(f"{word}: behind the colon stand nodes: {option}:1, {option}:foo,bar")
        (of_some.setdefault(some, {}) if colon else options)[option] = value
    return Written(names=tuple(names), options=options, of_some=of_some, rest=rest)


def nodes_of(written: Written, *, python: str, flags: Collection[str]) -> list[Node]:
    """Return the nodes of a command line, in their order.

    Args:
        written: the command line.
        python: the interpreter, unless ``--executable`` names another one.
        flags: options of the worker that take no value.

    Raises:
        ConfigurationError: there are no names, or an option is for a node that isn't there.
    """
    options = dict(written.options)
    command = options.pop("--cmd", None)
    append = options.pop("--append", None)
    host = options.pop("--hostname", None) or options.pop("-n", None) or ""
    prefix = options.pop("--prefix", None) or ""
    suffix = options.pop("--suffix", None) or host
    range_prefix = options.pop("--range-prefix", None) or "celery"
    if not written.names:
        raise ConfigurationError("multi needs the names of nodes, or how many there are")
    counted = len(written.names) == 1 and written.names[0].isdecimal()
    shorts = [str(n + 1) for n in range(int(written.names[0]))] if counted else list(written.names)
    beginning = range_prefix if counted else prefix
    names = [_full_name(short, beginning, "" if suffix in ('""', "''") else suffix) for short in shorts]
    of_some = _by_node(written.of_some, shorts, names, counted=counted)
    return [
        _node({**options, **of_some[name]}, name, command, append, written.rest, python, flags)
        for name in names
    ]


def _full_name(short: str, prefix: str, suffix: str) -> str:
    if "@" in short:
        return node_name(short)
    return node_name(f"{prefix}{short}@{suffix}" if suffix else f"{prefix}{short}")


def _by_node(
    of_some: Mapping[str, Mapping[str, str | None]],
    shorts: Sequence[str],
    names: Sequence[str],
    *,
    counted: bool,
) -> dict[str, dict[str, str | None]]:
    """Return full name → options of that node only."""
    found: dict[str, dict[str, str | None]] = {name: {} for name in names}
    for some, options in of_some.items():
        for part in some.split(","):
            for name in _meant(part, shorts, names, counted=counted):
                found[name].update(options)
    return found


def _meant(part: str, shorts: Sequence[str], names: Sequence[str], *, counted: bool) -> Sequence[str]:
    first, dash, last = part.partition("-")
    if part in shorts or part in names:
        return [name for short, name in zip(shorts, names, strict=True) if part in (short, name)]
    if dash and first.isdecimal() and last.isdecimal():
        return names[max(0, int(first) - 1) : int(last)]
    if part.isdecimal() and 1 <= int(part) <= len(names):
        return [names[int(part) - 1]]
    if counted and part.isdecimal() and int(part):
        return ()  # beyond the number of nodes, as the end of a range may be
    raise ConfigurationError(f"an option is for the node {part!r}, which is none of {', '.join(names)}")


def _node(
    options: dict[str, str | None],
    name: str,
    command: str | None,
    append: str | None,
    rest: Sequence[str],
    python: str,
    flags: Collection[str],
) -> Node:
    short, _, host = name.partition("@")

    def expanded(value: str) -> str:
        return os.path.expanduser(_expanded(value, short, host, name))

    pidfile = expanded(_taken(options, _PIDFILE) or _PIDFILE_DEFAULT)
    logfile = expanded(_taken(options, _LOGFILE) or _LOGFILE_DEFAULT)
    interpreter = options.pop("--executable", None) or python
    before: list[str] = []
    behind: list[str] = []
    for option, value in options.items():
        words = _option(option, None if value is None or option in flags else expanded(value))
        (before if option in _BEFORE_WORKER else behind).extend(words)
    if command is None:
        argv = [interpreter, "-m", "emq_compat", *before, "worker", "--detach"]
    else:
        argv = [*expanded(command).split(), *before]
    argv += ["-n", name, f"--pidfile={pidfile}", f"--logfile={logfile}", *behind]
    if append:
        argv += expanded(append).split()
    if rest:
        argv += ["--", *rest]
    return Node(
        name=name,
        argv=tuple(argv),
        pidfile=pidfile.replace("%I", "").replace("%i", "0"),
        logfile=logfile.replace("%I", "").replace("%i", "0"),
        own_command=command is None,
    )


def _taken(options: dict[str, str | None], spellings: Iterable[str]) -> str | None:
    found = [options.pop(spelling, None) for spelling in spellings]
    return next((value for value in found if value), None)


def _option(option: str, value: str | None) -> list[str]:
    if value is None:
        return [option]
    return [f"{option}={value}"] if option.startswith("--") else [option, value]


def _expanded(text: str, short: str, host: str, name: str) -> str:
    values = {"n": short, "N": short, "d": host, "h": name, "p": name, "%": "%"}
    return _MARK.sub(lambda found: values.get(found[1], found[0]), text)
