"""inspect, control and what else asks a broker and its workers, as a person runs it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from emq_compat.cli.main import cli
from emq_compat.cli.remote import namesakes_told
from emq_compat.client import Client
from emq_compat.shim.inspection import flatten_reply
from tests.cli.conftest import Site
from tests.processes import Procs, unused_port, wait_until

pytestmark = pytest.mark.integration

OWN = '''

from celery.worker.control import control_command, inspect_command


@inspect_command(args=[("n", int)], variadic="more", signature="<n> [more …]")
def times(state, n, more):
    """Multiply what follows."""
    return [n * int(one) for one in more]


@control_command(args=[("text", str)], signature="<text>")
def remember(state, text):
    """Keep a text."""
    return {"ok": f"{state.hostname} keeps {text}"}
'''


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A broker and a worker named remote@here, for the module."""
    folder = tmp_path_factory.mktemp("remote")
    (folder / "procs").mkdir()
    procs = Procs(folder / "procs")
    try:
        site = Site(folder, procs, unused_port)
        with (folder / "proj.py").open("a") as file:
            file.write(OWN)
        site.start_broker()
        site.start_worker("-P", "threads", "-n", "remote@here")
        yield site
    finally:
        procs.close()


def run(site: Site, *argv: str, status: int = 0, stdin: str | None = None) -> str:
    """What `emq-compat ARGV -b BROKER` prints; with another status than 0, on standard error."""
    result = CliRunner().invoke(cli, [argv[0], "-b", site.url, *argv[1:]], input=stdin)
    assert status == result.exit_code, result.output
    return result.stdout if status == 0 else result.stderr


def test_inspect_prints_as_celery_does(running: Site) -> None:
    """Each node's answer stands below its name, and the number of nodes at the end."""
    expected = "->  remote@here: OK\n        pong\n\n1 node online.\n"
    assert expected == run(running, "inspect", "ping")
    assert "->  remote@here: OK\n    - empty -\n\n1 node online.\n" == run(running, "inspect", "active")
    told = run(running, "inspect", "registered", "-d", "remote@here,other@here", "-t", "5", "name")
    assert "    * proj.add [name=proj.add]\n" in told
    assert {"remote@here": {"ok": "pong"}} == json.loads(run(running, "inspect", "ping", "-j"))
    assert '    "total_requests": ' in run(running, "inspect", "stats")
    quiet = CliRunner().invoke(cli, ["-q", "inspect", "ping", "-b", running.url])
    assert " remote@here: OK\n        pong\n" == quiet.output


def test_workers_of_one_name_are_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Two workers of one name are one plain line, once, Celery's own too; other warnings stay Python's."""

    celerys = type("DuplicateNodenameWarning", (UserWarning,), {})

    def ask() -> None:
        with namesakes_told():
            for _ in range(2):
                assert {"w@h": 2} == flatten_reply([{"w@h": 1}, {"w@h": 2}])
            warnings.warn("another", UserWarning, stacklevel=1)
            warnings.warn("Several\nreplies.", celerys, stacklevel=1)

    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        ask()
    assert ["another"] == [str(one.message) for one in others]
    told = capsys.readouterr()
    assert "" == told.out
    ours = "Warning: several workers are named w@h: give each a name of its own (-n)\n"
    assert f"{ours}Warning: Several replies.\n" == told.err


def test_nobody_there_is_status_69(running: Site) -> None:
    """inspect and control end with 69 when no node replies, as probes of containers expect."""
    said = "No nodes replied within time constraint"
    assert said in run(running, "inspect", "ping", "-d", "other@here", status=69)
    assert said in run(running, "control", "heartbeat", "-d", "other@here", status=69)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("inspect", "activ"), "Command activ not recognized. Available: active, active_queues,"),
        (("inspect", "pool_grow"), "Command pool_grow not recognized"),
        (("inspect", "ping", "x"), "ping takes the arguments: none"),
        (("control", "add_consumer"), "add_consumer takes the arguments: <queue> [exchange"),
        (("control", "pool_grow", "two"), "n: invalid literal"),
        (("inspect", "ping", "-t", "soon"), "'soon' is not a valid float"),
        (("control", "terminate", "FOO", "an-id"), "terminate: there is no signal 'FOO'"),
        (("control", "revoke_by_stamped_headers", "a=1", "b"), "'b' is no stamp=value"),
    ],
)
def test_wrong_calls(running: Site, argv: tuple[str, ...], message: str) -> None:
    """What was called wrongly is told with what would be right, with exit status 2."""
    assert message in run(running, *argv, status=2)


def test_control_changes_workers(running: Site) -> None:
    """Commands take their arguments from the command line, and an error of a worker is shown as one."""
    assert "->  remote@here: OK\n        pool will grow\n" == run(running, "control", "pool_grow", "1")
    with Client(running.url) as client:
        assert [3] == [one["ok"]["pool"]["max-concurrency"] for one in client.inspect("stats").values()]
        wait_until(lambda: [3] == [row["slots"] for row in client.ask("workers")], what="the broker knows it")
    run(running, "control", "pool_shrink")
    assert "new rate limit set" in run(running, "control", "rate_limit", "proj.add", "10/m")
    assert "time limits set" in run(running, "control", "time_limit", "proj.add", "1.5", "20")
    assert "add consumer more" in run(running, "control", "add_consumer", "more", "ex", "topic", "key")
    assert "no longer consuming from more" in run(running, "control", "cancel_consumer", "more")
    assert "flagged as revoked" in run(running, "control", "revoke", "an-id", "b")
    assert "terminate: tasks unknown" in run(running, "control", "terminate", "KILL", "an-id")
    assert {"an-id", "b"} <= set(json.loads(run(running, "inspect", "revoked", "--json"))["remote@here"])
    failed = run(running, "control", "autoscale", "3", "1")
    assert "->  remote@here: ERROR\n        ValueError('Autoscale not enabled')\n" == failed


def test_commands_of_a_project(running: Site) -> None:
    """A project's own commands are listed and run, with the arguments that they say."""
    told = running.emq("-A", "proj", "inspect", "times", "3", "1", "2")
    assert "->  remote@here: OK\n    * 3\n    * 6\n\n1 node online.\n" == told
    assert "        remote@here keeps this\n" in running.emq("-A", "proj", "control", "remember", "this")
    assert "times <n> [more …]" in running.emq("-A", "proj", "inspect", "--list")
    refused = running.emq("-A", "proj", "inspect", "times", status=2)
    assert "times takes the arguments: <n> [more …]" in refused


def test_status_of_some_workers(running: Site) -> None:
    """status takes -d and -j, and ends with 69 where those workers aren't there."""
    document = json.loads(run(running, "status", "-j", "-d", "remote@here"))
    assert ["remote@here"] == [worker["name"].rpartition(".")[0] for worker in document["workers"]]
    assert "No worker" in CliRunner().invoke(cli, ["status", "-b", running.url, "-d", "no@here"]).stdout


def test_queues_are_administrated(running: Site) -> None:
    """amqp runs one command, or what is typed, and answers what isn't there with what to use instead."""
    running.emq("call", "proj.add", "-a", "[1, 2]", "--queue", "spare", "-A", "proj")
    assert "queue:spare messages:1 consumers:0\nOK\n" == run(
        running, "amqp", "queue.declare", "spare", "true"
    )
    assert "'spare' is not empty: it holds 1 message" in run(
        running, "amqp", "queue.delete", "spare", "no", "yes", status=1
    )
    told = {queue["name"]: queue["waiting"] for queue in json.loads(run(running, "amqp", "queue.list", "-j"))}
    assert 1 == told["spare"]
    assert "1 messages deleted.\nOK\n" == run(running, "amqp", "queue.purge", "spare")
    lines = (
        "queue.list", "queue.declare nosuch yes", "", "queue.bind q e k", "basic.get q", "wrong",
        "queue.delete spare", "exit", "queue.list",
    )  # fmt: skip
    typed = "\n".join(lines)
    done = CliRunner().invoke(cli, ["amqp", "-b", running.url], input=typed)
    assert 1 == done.exit_code
    assert "-> connected." in done.stdout
    assert "spare" in done.stdout.partition("deleted")[0]
    assert "0 messages deleted." in done.stdout
    for message in (
        "there is no queue 'nosuch'", "there are no exchanges here", "handed to workers only",
        "No such command 'wrong'",
    ):  # fmt: skip
        assert message in done.stderr


def test_bindings_are_listed(running: Site) -> None:
    """list bindings has Celery's columns: the app's queues, and those that only the broker knows."""
    lines = running.emq("-A", "proj", "list", "bindings").splitlines()
    assert ["Queue", "Exchange", "Routing", "Key"] == lines[0].split()
    assert ["celery", "celery", "celery"] in [line.split() for line in lines]
    assert ["slow", "slow"] in [line.split() for line in lines]
    told = json.loads(running.emq("-A", "proj", "list", "bindings", "--json"))
    assert {"queue": "celery", "exchange": "celery", "routing_key": "celery"} in told


def test_workers_are_drawn(running: Site) -> None:
    """graph workers writes Graphviz's language: workers with their slots, the broker, the backend."""
    drawn = run(running, "graph", "workers", "broker:amqp://x@here", status=2)
    assert "No such option '-b'" in drawn
    drawn = CliRunner().invoke(cli, ["graph", "workers", "-b", running.url, "backend:redis://here/0"]).stdout
    assert drawn.startswith("digraph dependencies {\n")
    assert '"remote@here" -> "redis://here/0"' in drawn
    assert '"remote@here/slot 2" -> "remote@here"' in drawn
    named = (
        CliRunner()
        .invoke(
            cli,
            ["graph", "workers", "-b", running.url, "nodes:a,b,c,d,e", "threads:1,1", "generic", "wmax:2"],
        )
        .stdout
    )
    assert '"a" -> "emq://"' in named
    assert '"e"' in named
    assert '"b"' not in named


def test_a_shell_has_the_tasks(running: Site) -> None:
    """shell runs what stands in standard input, with the app, its tasks and workflows at hand."""
    typed = "print('sum', add.delay(2, 3).get(timeout=20), chain, app.main)\nadd\n"
    done = running.run("-A", "proj", "shell", "-P", stdin=typed)
    assert "sum 5 " in done.stdout
    assert "<@task: proj.add of proj" in done.stdout
    assert "NameError" in running.run("-A", "proj", "shell", "-T", stdin="add\n").stderr
    assert "ipython is not installed" in running.emq("-A", "proj", "shell", "-I", status=1)


def test_shutdown_ends_a_worker(running: Site) -> None:
    """control shutdown ends the workers that it is meant for, with status 0."""
    worker = running.start_worker("-P", "solo", "-n", "ends@here")
    assert "ends@here: OK" in run(running, "control", "shutdown", "-d", "ends@here")
    assert 0 == worker.wait(20)
    assert ["remote@here"] == list(json.loads(run(running, "inspect", "ping", "-j")))
