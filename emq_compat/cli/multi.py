"""``emq-compat multi``: starts, stops and restarts several workers of this machine."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence

import click

from emq_compat import __version__
from emq_compat.cli.connection import one_line_errors
from emq_compat.cli.context import root_context
from emq_compat.cli.multi_cluster import Cluster
from emq_compat.cli.multi_nodes import Node, nodes_of, read
from emq_compat.cli.worker import worker
from emq_compat.errors import ConfigurationError

__all__ = ["multi"]

_EXAMPLES = """\
\b
Examples:
  emq-compat multi start 3 -A proj -c 2         celery1, celery2, celery3 with two slots each
  emq-compat multi start web mail -A proj -c:mail 1
  emq-compat multi start 4 -A proj -Q:1-2 fast -Q:3,4 slow --pidfile=run/%n.pid --logfile=log/%n.log
  emq-compat multi restart web mail -A proj --pidfile=run/%n.pid --logfile=log/%n.log
  emq-compat multi stopwait web mail --pidfile=run/%n.pid
  emq-compat multi stop 3 -QUIT
\b
Without --pidfile and --logfile the files are /var/run/celery/%n.pid and /var/log/celery/%n.log. To stop or
restart a node the same --pidfile is needed, to restart it all its options: they are kept nowhere.
"""
_COMMANDS = (
    "start", "stop", "stopwait", "stop_verify", "restart", "kill", "show", "names", "get", "expand", "help",
)  # fmt: skip
_OF_MULTI = {"--nosplash": "nosplash", "--quiet": "quiet", "-q": "quiet", "--verbose": "verbose"}
_MULTIS_VALUES = frozenset({
    "--cmd", "--append", "--prefix", "--suffix", "--range-prefix", "--executable", "--workdir", "--config",
    "--loader", "--result-backend", "-p",
})  # fmt: skip


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=_EXAMPLES,
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar=f"{'|'.join(_COMMANDS)} NODES|N [OPTIONS]")
@click.pass_context
def multi(context: click.Context, words: tuple[str, ...]) -> None:
    """Start, stop, restart or kill several workers of this machine, each with its own name and files.

    NODES are names, or a number of them. Options are those of `emq-compat worker`; an option followed by a
    colon counts for some nodes only: -c:1 10, -Q:1-3 images, -l:web,mail info. `show` prints the commands,
    `names` the nodes' names, `get NAME` one command, `expand TEMPLATE` a text with %n, %h, %d of each node.
    --nosplash, --quiet and --verbose change how much is printed. For production a service manager does
    better: it restarts what ends.
    """
    root = root_context()
    said, flags = _own_flags(words)
    if not said or said[0] not in _COMMANDS:
        wrong = f"no command {said[0]!r}; " if said else ""
        raise click.UsageError(f"{wrong}multi needs one of {', '.join(_COMMANDS)}")
    command, *rest = said
    if command == "help":
        click.echo(context.get_help())
        return
    with one_line_errors("warning"):
        _run(command, [*rest, *_from_root(context)], flags | ({"quiet"} if root.quiet else set()))


def _own_flags(words: Sequence[str]) -> tuple[list[str], set[str]]:
    """Return the words without the options of multi itself, and those."""
    kept: list[str] = []
    flags: set[str] = set()
    for number, word in enumerate(words):
        if word == "--":
            return [*kept, *words[number:]], flags
        if word in _OF_MULTI:
            flags.add(_OF_MULTI[word])
        else:
            kept.append(word)
    return kept, flags


def _from_root(context: click.Context) -> list[str]:
    """Return the options that stood before ``multi``: the workers are to have them."""
    before = context.find_root()
    words = []
    for name in ("app", "broker", "result_backend", "loader", "config"):
        if (
            before.params.get(name)
            and before.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
        ):
            words.append(f"--{name.replace('_', '-')}={before.params[name]}")
    return words


def _run(command: str, words: Sequence[str], flags: set[str]) -> None:
    first = ""
    if command in ("get", "expand"):
        if not words:
            raise click.UsageError(
                f"{command} needs {'a name' if command == 'get' else 'a template'}, and nodes"
            )
        first, *words = words
    signum: int = signal.SIGTERM
    if command in ("stop", "stopwait", "stop_verify", "restart"):
        words, signum = _without_signal(words)
    nodes = _nodes(words)
    if command == "names":
        click.echo("\n".join(node.name for node in nodes))
    elif command == "show":
        click.echo("\n".join(shlex.join(node.argv) for node in nodes))
    elif command == "expand":
        click.echo("\n".join(node.expanded(first) for node in nodes))
    elif command == "get":
        found = [node for node in nodes if node.name == first or node.name.partition("@")[0] == first]
        if not found:
            sys.exit(1)
        click.echo(shlex.join(found[0].argv))
    else:
        sys.exit(0 if _changed(command, nodes, signum, flags) else 1)


def _changed(command: str, nodes: Sequence[Node], signum: int, flags: set[str]) -> bool:
    context = root_context()

    def say(text: str, newline: bool = True) -> None:
        if "quiet" not in flags:
            context.echo(text, nl=newline)

    if "nosplash" not in flags:
        say(context.style(f"emq-compat multi {__version__}", fg="cyan"))
    cluster = Cluster(nodes, say, verbose="verbose" in flags)
    if command == "start":
        return cluster.start()
    if command == "restart":
        return cluster.restart(signum)
    if command == "kill":
        cluster.kill()
    else:
        cluster.stop(signum, wait=command != "stop")
    return True


def _without_signal(words: Sequence[str]) -> tuple[list[str], int]:
    """Return the words without one that names a signal (``-9``, ``-QUIT``), and the signal."""
    kept, signum = [], int(signal.SIGTERM)
    for word in words:
        name = word[1:]
        if word[:1] == "-" and name.isdecimal() and int(name) in set(signal.Signals):
            signum = int(name)
        elif word[:1] == "-" and f"SIG{name.removeprefix('SIG')}" in signal.Signals.__members__:
            signum = int(signal.Signals[f"SIG{name.removeprefix('SIG')}"])
        else:
            kept.append(word)
    return kept, signum


def _nodes(words: Sequence[str]) -> list[Node]:
    options = [parameter for parameter in worker.params if isinstance(parameter, click.Option)]
    flags = {word for option in options if option.is_flag for word in option.opts}
    values = {word for option in options if not option.is_flag for word in option.opts} | _MULTIS_VALUES
    nodes = nodes_of(read(words, values), python=sys.executable, flags=flags)
    twice = [node.name for number, node in enumerate(nodes) if node.name in {n.name for n in nodes[:number]}]
    if twice:
        raise ConfigurationError(f"two nodes are named {twice[0]}")
    return nodes
