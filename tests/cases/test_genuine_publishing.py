"""A genuine Celery app publishes while its broker is away; our worker runs what arrived (case 40)."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.mixed_site import MixedSite, combinations
from tests.processes import unused_port
from tests.proxy import Proxy

pytestmark = [pytest.mark.integration, pytest.mark.cases]

KINDS = combinations(apps=("genuine",), short=("genuine-amqp",))

#: The project's limits, and what a call may take at most where the machine is busy: Celery tries thrice more.
LIMITS = {"broker_connection_timeout": 1.0, "broker_transport_options": {"socket_timeout": 1.0}}
LIMIT_S = 5.0

PUBLISHER = f"""
import threading
from kombu.exceptions import OperationalError

outcomes = {{}}


def publish(mark):
    began = time.monotonic()
    try:
        ping.delay(mark)
        outcome = "confirmed"
    except OperationalError:
        outcome = "raised"
    took_s = time.monotonic() - began
    outcomes[mark] = outcome if took_s < {LIMIT_S} else f"{{outcome}} after {{took_s}} s"
    return outcomes[mark]


def in_threads(prefix):
    threads = [threading.Thread(target=publish, args=(f"{{prefix}}{{n}}",)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {{mark: outcome for mark, outcome in outcomes.items() if mark.startswith(prefix)}}


def in_a_child(mark):
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, publish(mark).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read) as told:
        return told.read()
"""


class Away:
    """What a test does to the way between the app and its broker."""

    def __init__(self, mixed: MixedSite) -> None:
        self.mixed = mixed
        parts = urlsplit(mixed.url)
        self.port = unused_port()
        self.proxy: Proxy | None = None
        netloc = parts.netloc.rpartition(":")[0] + f":{self.port}"
        mixed.write_project(PUBLISHER, broker_url=urlunsplit(parts._replace(netloc=netloc)), **LIMITS)

    def back(self) -> None:
        """The broker is there from now on."""
        self.proxy = Proxy(urlsplit(self.mixed.url).port or 0, port=self.port)
        self.proxy.__enter__()

    def gone(self) -> None:
        """Nobody listens any more."""
        if self.proxy is not None:
            self.proxy.__exit__()
            self.proxy = None


@pytest.fixture
def away(mixed: MixedSite) -> Iterator[Away]:
    made = Away(mixed)
    yield made
    made.gone()


@pytest.mark.parametrize("mixed", KINDS, indirect=True)
def test_each_call_ends_in_time_and_nothing_is_sent_twice(mixed: MixedSite, away: Away) -> None:
    """40: before there is a broker, between two calls, from ten threads, after a fork; then each ran once."""
    raised, confirmed = {"raised"}, {"confirmed"}
    assert raised == {mixed.ask(f"publish('never{n}')") for n in range(2)}

    away.back()
    assert confirmed == {mixed.ask("publish('first')")}
    away.gone()
    assert raised == {mixed.ask("publish('between')")}
    assert raised == set(mixed.ask("in_threads('down')").values())
    assert raised == {mixed.ask("in_a_child('childdown')")}

    away.back()
    assert confirmed == set(mixed.ask("in_threads('up')").values())
    assert confirmed == {mixed.ask("in_a_child('childup')"), mixed.ask("publish('last')")}

    mixed.start_worker("-c", "1", "-b", mixed.url)
    marks = ["first", *(f"up{n}" for n in range(10)), "childup", "last"]
    for mark in marks:
        mixed.wait_runs(f"ping {mark}")
    assert [1] * 13 == [mixed.count(f"ping {mark}") for mark in marks]
    assert 13 == len(mixed.runs())
