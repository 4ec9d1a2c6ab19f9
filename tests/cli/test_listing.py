"""What commands list: for people, on a terminal of any width; and for programs, as JSON."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest
from click.testing import CliRunner

from emq_compat.celery_shim import Celery
from emq_compat.cli import amqp
from emq_compat.cli.as_json import tell
from emq_compat.cli.main import COMMANDS, cli
from emq_compat.client import Client
from emq_compat.message import Headers, Job, Publish
from emq_compat.table import UNCUT
from tests.cli.conftest import COMMAND, Site
from tests.cli.screen import Screen
from tests.test_table import cells

#: Commands without --json, and why.
WITHOUT = {
    "worker": "runs until it is ended; --log-format json has its lines as JSON",
    "beat": "likewise",
    "jobmanager": "likewise",
    "dev": "runs until it is ended",
    "dashboard": "runs until it is ended",
    "multi": "prints names and commands a line each, as Celery's; of what it starts nothing is listed",
    "call": "prints one id, or the result as JSON",
    "shell": "is a Python shell",
    "graph bootsteps": "prints Graphviz's language, which is for programs",
    "graph workers": "likewise",
    "upgrade settings": "shows a diff, which programs read",
    "keys new": "makes one folder",
    "keys add-client": "likewise",
    "keys new-client": "likewise",
    "keys authorise": "changes one entry",
    "keys permit": "likewise",
    "keys remove-client": "likewise",
    "amqp": "has it with each command that lists",
    "amqp queue.declare": "prints what Celery's shell does, of one queue",
    "amqp queue.purge": "likewise",
    "amqp queue.delete": "likewise",
}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that can be called, by its words."""
    context = click.Context(cli)
    left = [(name, cli.get_command(context, name)) for name in COMMANDS]
    left.append(("amqp", amqp.shell))
    while left:
        words, command = left.pop()
        assert command is not None
        if isinstance(command, click.Group):
            inner = [(f"{words} {name}", command.get_command(context, name)) for name in command.commands]
            left += [(name, one) for name, one in inner if one is not None and not one.hidden]
        else:
            yield words, command


@pytest.mark.unit
def test_each_command_that_lists_has_json() -> None:
    """All but those above have -j and --json, and those above don't, so that the list stays true."""
    options = {words: {o for p in command.params for o in p.opts} for words, command in commands()}
    assert {*WITHOUT} == {words for words, found in options.items() if not {"-j", "--json"} & found}
    assert [] == [words for words, found in options.items() if len({"-j", "--json"} & found) == 1]


@pytest.mark.unit
def test_json_can_always_be_written(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Half a surrogate pair, which JSON may hold and UTF-8 can't, is escaped."""
    tell({"é": "漢"})
    tell(["\ud800"])
    assert ['{"é": "漢"}', '["\\ud800"]'] == capfdbinary.readouterr().out.decode().splitlines()


LOG = """\
[2026-11-26 09:03:47,472: INFO/MainProcess] Task proj.add[a1] received
[2026-11-26 09:03:47,472: INFO/MainProcess] Task proj.add[a2] received
[2026-11-26 09:03:47,477: INFO/emq-child-1] Task proj.add[a1] succeeded in 0.001156s: 3
"""
LONG = "a_queue_with_quite_a_long_name.of_the_orders"


@pytest.mark.integration
def test_what_is_listed_as_json(site: Site, free_port: Callable[[], int], tmp_path: Path) -> None:
    """Each is one JSON document that says what the text does."""
    site.start_broker()
    job = Job(path="nosuch", callable="task").encode()
    with Client(site.url) as client:
        for _ in range(2):
            client.publish(Publish(queue=LONG, headers=Headers(), payload=job))
    log = site.folder / "worker.log"
    log.write_text(LOG)
    keys = site.folder / "keys"

    def told(*argv: str, status: int = 0) -> Any:
        done = CliRunner().invoke(cli, argv)
        assert status == done.exit_code, done.output
        assert 1 == done.stdout.count("\n")
        return json.loads(done.stdout)

    b = ("-b", site.url)
    row = {"queue": LONG, "changed": True, "waiting": 2}
    assert [LONG] == [q["name"] for q in told("amqp", *b, "queue.list", "-j") if q["waiting"]]
    assert {"broker", "stats", "workers", "queues"} == {*told("status", *b, "-j", status=69)}
    assert [{**row, "paused": True}] == told("queue", "pause", *b, LONG, "-j")
    assert [{**row, "paused": False}] == told("queue", "resume", *b, LONG, "-j")
    assert {"unique", "gates", "chords", "parked"} <= {*told("held", *b, "-j")}
    assert [] == told("schedules", *b, "-j")
    assert {"ok": True, "asked": "ready", "checks": {"loop": ""}} == told("health", *b, "-j")
    assert {"requeued": 0} == told("dead", "requeue", "--all", *b, "-j")
    assert {"dropped": 0} == told("dead", "drop", "--all", *b, "-j")
    assert {"versions", "environment", "app", "broker"} == {*told("report", *b, "-j")}
    (tmp_path / "other").mkdir()
    other = Site(tmp_path / "other", site.procs, free_port)
    other.start_broker()
    moved = told("migrate", "messages", site.url, other.url, "-n", "1", "-Q", LONG, "-j")
    assert (1, {}, [{"queue": LONG, "to": LONG, "moved": 1, "stayed": 0}]) == (
        moved["moved"], moved["stayed"], moved["queues"]
    )  # fmt: skip
    assert {"dropped": {LONG: 1}} == told("purge", *b, "-Q", LONG, "-f", "-j")
    assert {"dropped": {LONG: 0}} == told("purge", *b, "-Q", LONG, "-j")
    assert {"total": 2, "errors": 0, "success": 1, "completed": 1, "received": {"proj.add": 2}} == told(
        "logtool", "stats", "-j", str(log)
    )
    assert ["a2"] == told("logtool", "incomplete", "-j", str(log))
    assert [[], [], []] == [told("logtool", name, "-j", str(log)) for name in ("errors", "traces", "debug")]
    assert 0 == CliRunner().invoke(cli, ["keys", "new", str(keys)]).exit_code
    assert ["admin"] == [one["role"] for one in told("keys", "list", str(keys), "-j")]


class LongNames:
    """A broker where everything has a long name, some in wide characters."""

    queue: ClassVar[dict[str, Any]] = {
        "name": LONG, "waiting": 12345, "delayed": 0, "held": 1, "parked": 0, "in_flight": 3, "workers": 2,
        "paused": True,
    }  # fmt: skip
    answers: ClassVar[dict[str, Any]] = {
        "stats": {"uptime_s": 5.0, "in_flight": 3, "dead": 1, "unique_keys": 1},
        "queues": [queue, {**queue, "name": "注文の列" * 6}],
        "workers": [
            {
                "name": "celery-of-the-orders@web1.example.com", "present": True, "stock": False, "pid": 4711,
                "hostname": "web1.example.com", "in_flight": 2, "slots": 8, "queues": [LONG, "注文の列" * 6],
                "silent_s": 0.5,
            }
        ],
        "dead_list": [
            {
                "key": 7, "at": 1e9, "queue": LONG, "task": "proj.orders.tasks.send_confirmation",
                "task_id": "01a217eb-8a0d-7e7e-af38-1b7ac5a4f067", "reason": "the worker was lost " * 9,
            }
        ],
        "keys": {
            "unique": [{"key": "注文" * 20, "holder": "0f" * 18, "left_s": 3.0, "followers": 2}],
            "gates": [
                {"key": "k" * 99, "kind": "places", "of": "key", "running": 3, "parked": 2, "opens_s": 1.0}
            ],
            "chords": [{"body": "0f" * 18, "ended": 1, "parts": 12, "silent_s": 4.0}],
            "parked": 2,
        },
        "periodic": [
            {
                "schedule": "proj:nightly", "name": "every day at noon", "task": "proj.orders.tasks.remind",
                "shown": "<crontab: 0 12 * * * (m/h/dM/MY/d)>", "total": 12, "last_run_at": 1e9, "age_s": 9.0,
            }
        ],
    }  # fmt: skip

    def ask(self, verb: str, **arguments: Any) -> Any:
        found = self.answers[verb]
        return [row for row in found if row["key"] > arguments["after"]] if verb == "dead_list" else found

    def inspect(self, verb: str, **arguments: Any) -> Any:
        task = {"name": "proj.orders.tasks.send_confirmation", "id": "0f" * 18, "worker_pid": 4712}
        began = {"time_start": time.time()} if verb == "active" else {}
        return {self.answers["workers"][0]["name"]: {"ok": [{**task, **began}]}}


TABLES = [
    ("status",), ("dead", "list"), ("held",), ("schedules",), ("amqp", "queue.list"), ("list", "bindings"),
    ("keys", "list", "keys"), ("logtool", "stats", "worker.log"), ("migrate", "scan", "old.py"),
]  # fmt: skip


@pytest.mark.unit
@pytest.mark.parametrize("argv", TABLES, ids=" ".join)
def test_tables_fit_the_terminal(
    argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a narrow terminal no line of a table is wider, and it says more than on a narrower one."""
    app = Celery("long", set_as_current=False)
    app.client = LongNames()  # type: ignore[assignment]
    monkeypatch.setattr("emq_compat.cli.connection.Connection.client", lambda self: nullcontext(LongNames()))
    monkeypatch.setattr("emq_compat.cli.connection.Connection.app", lambda self: nullcontext(app))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "worker.log").write_text(LOG.replace("proj.add", "proj.注文." + "very_" * 20 + "long"))
    (tmp_path / "old.py").write_text("import celery\n")
    assert 0 == CliRunner().invoke(cli, ["keys", "new", "keys"]).exit_code

    def shown(width: int) -> list[str]:
        for module in ("table", "cli.list"):
            monkeypatch.setattr(f"emq_compat.{module}.room", lambda: width)
        done = CliRunner().invoke(cli, argv)
        assert done.exit_code in (0, 3), done.output
        return done.stdout.splitlines()

    uncut = shown(UNCUT)
    assert max(map(cells, uncut)) > 60 or argv[0] in ("migrate", "logtool")
    narrow = {width: shown(width) for width in (40, 79)}
    for width, lines in narrow.items():
        assert len(uncut) == len(lines) or argv[0] == "list"
        assert [] == [line for line in lines if cells(line) > width and not PROSE.match(line)]
    assert sum(map(cells, narrow[40])) <= sum(map(cells, narrow[79]))


#: Lines between tables.
PROSE = re.compile(r"Broker |\d+ unique key|old.py:|\d+ files? read")


@pytest.mark.integration
def test_the_terminals_width_counts(site: Site) -> None:
    """A terminal of 40 columns is 40 columns wide, and a pipe as wide as it has to be."""
    site.start_broker()
    job = Job(path="nosuch", callable="task").encode()
    with Client(site.url) as client:
        client.publish(Publish(queue=LONG, headers=Headers(), payload=job))
    command = ("amqp", "-b", site.url, "queue.list")
    screen = Screen(COMMAND, *command, folder=site.folder, size=(24, 40), COLUMNS="")
    try:
        assert 0 == screen.ended()
        lines = screen.read().splitlines()
        assert 2 == len(lines)
        assert max(map(len, lines)) <= 40
        assert "…" in lines[1]
    finally:
        screen.close()
    assert LONG in site.emq(*command)
