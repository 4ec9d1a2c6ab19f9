"""Commands where nobody listens: one line, no traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator

import pytest

from emq_compat.cli import connection, migrate_messages, report
from emq_compat.cli.main import COMMANDS, main
from emq_compat.client import Client
from emq_compat.monitor.overview import look

pytestmark = [pytest.mark.integration]

#: Command → words with which it talks to a broker, {} being that broker's address.
WORDS = {
    "call": "call proj.add -b {}",
    "result": "result some-id -b {}",
    "status": "status -t 0.1 -b {}",
    "top": "top --once -b {}",
    "health": "health -t 0.2 -b {}",
    "inspect": "inspect -t 0.1 -b {} ping",
    "control": "control -t 0.1 -b {} heartbeat",
    "list": "-b {} list bindings",
    "graph": "-b {} graph workers",
    "held": "held -b {}",
    "purge": "purge -f -b {}",
    "queue": "queue pause q -b {}",
    "dead": "dead list -b {}",
    "amqp": "amqp -b {} queue.declare q",
    "schedules": "schedules -b {}",
    "report": "report -b {}",
    "migrate": "migrate messages {0} {0}",
}
#: These wait for a broker, start one, or talk to none.
OTHERS = "events broker worker beat jobmanager dev multi dashboard shell logtool upgrade keys"
#: These end with 69, as Celery's do.
UNAVAILABLE = {"inspect", "control", "graph"}


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A client of the command line that gives up within 0.2 s; `import celery` then means what it did."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = set(sys.modules)
    impatient = functools.partial(Client, timeout_s=0.2)
    for module in (connection, migrate_messages):
        monkeypatch.setattr(module, "Client", impatient)
    monkeypatch.setattr(report, "_BROKER_S", 0.2)
    monkeypatch.setattr(look, "ANSWER_S", 0.2)
    monkeypatch.setenv("CELERY_BROKER_URL", "")  # -b before a command is put there
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "celery":
            del sys.modules[name]


def test_each_command_is_looked_at() -> None:
    """A new command is put into one of the lists here."""
    assert {*COMMANDS} == {*WORDS, *OTHERS.split()}


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("scheme", ["emq", "amqp", "redis"])
@pytest.mark.parametrize("command", WORDS)
def test_nobody_listens(
    command: str, scheme: str, free_port: Callable[[], int], capfd: pytest.CaptureFixture[str]
) -> None:
    """Each command ends with an error of one line, without a traceback, whatever the broker."""
    words = WORDS[command].format(f"{scheme}://127.0.0.1:{free_port()}").split()
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    if command == "report":
        assert not ended.value.code
        return
    assert (69 if command in UNAVAILABLE else 1) == ended.value.code or scheme != "emq"
    [line] = [line for line in (out if command == "health" else err).splitlines() if line]
    assert line.startswith("not ready: " if command == "health" else "Error: ")
    assert "Error: " not in line.removeprefix("Error: ")
    if scheme == "emq" and command != "health":
        assert line.endswith("the connection was refused; is one running? `emq-compat broker` starts one")
