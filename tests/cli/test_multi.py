"""Several workers by one command."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result

from emq_compat.cli.main import cli
from emq_compat.cli.multi_nodes import nodes_of, read
from emq_compat.errors import ConfigurationError
from tests.cli.conftest import Site
from tests.processes import wait_until

HOST = socket.gethostname()


def multi(*words: str) -> Result:
    """Run `emq-compat multi WORDS` here."""
    return CliRunner().invoke(cli, ["multi", *words])


def shown(*words: str) -> list[list[str]]:
    """The words behind ``worker --detach`` of each command that `multi show` prints."""
    result = multi("show", *words)
    assert 0 == result.exit_code, result.output
    return [line.split(" worker --detach ")[1].split() for line in result.stdout.splitlines()]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("3",), [f"celery{n}@{HOST}" for n in (1, 2, 3)]),
        (
            ("2", "--range-prefix=worker", "--hostname=far.example"),
            ["worker1@far.example", "worker2@far.example"],
        ),
        (("web", "mail@there", "x@%h"), [f"web@{HOST}", "mail@there", f"x@{HOST}"]),
        (("a", "-n", "h", "--prefix=pre."), ["pre.a@h"]),
        (("a", "b", "--suffix=place"), ["a@place", "b@place"]),
    ],
)
def test_names_of_nodes(words: tuple[str, ...], names: list[str]) -> None:
    """Nodes are a number, or names: of this host unless they say another one."""
    assert names == multi("names", *words).stdout.split()


@pytest.mark.unit
def test_options_of_some_nodes() -> None:
    """An option with a colon counts for those nodes: by place, range, list, name; the others keep theirs."""
    options = ("-A", "proj", "--pidfile=%n.pid", "--logfile=%n%I.log")

    def concurrency(*words: str) -> list[str]:
        return [found[found.index("-c") + 1] for found in shown(*words, *options)]

    assert ["10", "3", "3"] == concurrency("3", "-c", "3", "-c:1", "10")
    assert ["9", "9", "1", "9"] == concurrency("4", "-c", "1", "-c:1-2,4", "9")
    assert ["1", "5", "5"] == concurrency("a", "b", "c", "-c", "1", "-c:b,3", "5")
    assert ["2", "2"] == concurrency("2", "-c:1-5", "2")
    assert [
        ["-n", f"a@{HOST}", "--pidfile=a.pid", "--logfile=a%I.log", "-Q", "x", "-E", "--time-limit=5"]
    ] == shown("a", "-Q", "x", "-E", "--time-limit", "5", "--pidfile=%n.pid", "--logfile=%n%I.log")
    (found,) = shown("a", *options, "--append=--quiet", "--", "worker.pool=solo")
    assert ["--quiet", "--", "worker.pool=solo"] == found[-3:]


@pytest.mark.unit
def test_a_flag_takes_no_name_for_its_value() -> None:
    """A flag before a name leaves the name a name, which Celery's multi takes for the flag's value."""
    written = read(["-E", "web", "-c", "2", "mail"], {"-c"} | {"--x"})
    assert ({"-E": "web", "-c": "2"}, ("mail",)) == (written.options, written.names)
    assert [f"web@{HOST}"] == multi("names", "-c", "2", "web").stdout.split()


@pytest.mark.unit
def test_where_global_options_go() -> None:
    """Options of the whole command stand before `worker`, also those that stood before `multi`."""
    result = CliRunner().invoke(
        cli,
        [
            "-A",
            "proj",
            "multi",
            "show",
            "a",
            "--workdir=/tmp",
            "--pidfile=p",
            "--logfile=l",
            "--executable=py",
        ],
    )
    line = f"py -m emq_compat --workdir=/tmp --app=proj worker --detach -n a@{HOST} --pidfile=p --logfile=l"
    assert line == result.stdout.strip()
    command = multi("get", "b", "a", "b", "--cmd=run %n", "--pidfile=p", "--logfile=l").stdout.strip()
    assert f"run b -n b@{HOST} --pidfile=p --logfile=l" == command
    assert 1 == multi("get", "c", "a", "b").exit_code
    assert f"a:a@{HOST}:{HOST}.log\n" == multi("expand", "%n:%h:%d.log", "a").stdout


@pytest.mark.unit
@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ((), 2, "multi needs one of start, stop,"),
        (("begin", "a"), 2, "no command 'begin'; multi needs one of"),
        (("start",), 1, "multi needs the names of nodes"),
        (("show", "a", "-c:b", "2"), 1, "an option is for the node 'b'"),
        (("show", "a", "-c:", "2"), 1, "behind the colon stand nodes"),
        (("show", "a", "a"), 1, "two nodes are named a@"),
    ],
)
def test_wrong_calls(words: tuple[str, ...], status: int, message: str) -> None:
    """What is wrong is told in one message."""
    result = multi(*words)
    assert status == result.exit_code
    assert message in result.stderr


@pytest.mark.unit
def test_help_has_examples() -> None:
    """help and --help show what can be written."""
    for words in (("help",), ("--help",)):
        assert "multi start 3 -A proj -c 2" in multi(*words).stdout


@pytest.mark.unit
def test_a_node_needs_a_name() -> None:
    """Without names there are no nodes."""
    with pytest.raises(ConfigurationError, match="needs the names"):
        nodes_of(read([], ()), python="python", flags=())


@pytest.mark.integration
def test_nodes_are_started_and_ended(site: Site) -> None:
    """start waits for each, restart gives new processes, stopwait and kill end them: by their pid files."""
    site.start_broker()
    options = ("-A", "proj", "-P", "solo", "--pidfile=run/%n.pid", "--logfile=log/%n%I.log", "-l", "info")
    nodes = ("one", "two", *options)

    def pids() -> list[int]:
        return [int((site.folder / "run" / f"{name}.pid").read_text()) for name in ("one", "two")]

    told = site.emq("multi", "start", *nodes)
    try:
        assert [f"\t> one@{HOST}: OK", f"\t> two@{HOST}: OK"] == told.splitlines()[2:]
        before = pids()
        assert "5" == site.emq("call", "proj.add", "-a", "[2, 3]", "--wait", "20", "-A", "proj").strip()
        refused = site.run("multi", "start", "one", *options)
        assert 1 == refused.returncode
        assert f"process {before[0]} runs already" in refused.stdout

        told = site.emq("multi", "restart", *nodes)
        assert f"\t> one@{HOST}: TERM -> {before[0]}" in told.splitlines()
        assert not set(before) & set(pids())
        # They have ended, but whoever inherited them may still have to reap them.
        wait_until(lambda: not any(psutil.pid_exists(pid) for pid in before))

        second = pids()[1]
        (site.folder / "run" / "two.pid").write_text(f"{os.getpid()}\n")
        told = site.emq("multi", "stopwait", *nodes)
        assert f"\t> one@{HOST}: OK" in told.splitlines()
        assert f"process {os.getpid()}, which is no worker: it is left alone" in told
        assert f"> two@{HOST}: DOWN" in site.emq("multi", "stop", *nodes, "-INT")
        assert psutil.pid_exists(second)
        (site.folder / "run" / "two.pid").write_text(f"{second}\n")
        site.emq("multi", "kill", *nodes)
        wait_until(lambda: not psutil.pid_exists(second))
        assert "has ended" in (site.folder / "log" / "one.log").read_text()
    finally:
        _end(site.folder / "run")


def _end(folder: Path) -> None:
    for file in folder.glob("*.pid"):
        pid = int(file.read_text())
        if pid != os.getpid() and psutil.pid_exists(pid):
            psutil.Process(pid).kill()
