"""Questions to the broker, stored results, and waiting for results."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from emq_compat.client import Client, StoredResult
from emq_compat.errors import BrokerRefused, OperationalError
from tests.client.conftest import message, within
from tests.client.fake_broker import FakeBroker

pytestmark = pytest.mark.integration


def test_ask(broker: FakeBroker, client: Client) -> None:
    """An answer's ``ok`` is returned; the verb and the arguments arrive as they were given."""
    broker.behaviour.answers["purge"] = lambda arguments: {"ok": len(arguments["queue"])}

    assert 3 == client.ask("purge", queue="abc")
    assert {"queue": "abc"} == broker.asked[0].arguments


def test_ask_refused(broker: FakeBroker, client: Client) -> None:
    """An answer that is an error raises with its type and message."""
    error = {"type": "UnknownVerb", "message": "no 'odd'"}
    broker.behaviour.answers["odd"] = lambda arguments: {"error": error}

    with pytest.raises(BrokerRefused, match=r"^no 'odd'"):
        client.ask("odd")


def test_ask_unanswered(broker: FakeBroker, client: Client) -> None:
    """A question without an answer ends at its own limit, and names verb and address."""
    broker.behaviour.answers["stats"] = lambda arguments: None

    says = f"{broker.url} did not answer 'stats' within 0.2 s"
    with within(1), pytest.raises(OperationalError, match=says):
        client.ask("stats", timeout_s=0.2)


def test_inspect(broker: FakeBroker, client: Client) -> None:
    """Inspecting workers passes its own verb, arguments and time limit on."""
    broker.behaviour.answers["inspect"] = lambda arguments: {"ok": {"w1": arguments}}

    asked = client.inspect("revoke", {"ids": ["x"]}, destination=["w1"], timeout_s=2.0)["w1"]

    assert {"verb": "revoke", "arguments": {"ids": ["x"]}, "destination": ["w1"], "timeout_s": 2.0} == asked


def test_inspect_finds_workers_by_the_name_that_they_were_given(broker: FakeBroker, client: Client) -> None:
    """What an identity can't hold is asked for as the broker knows it, too, each name once."""
    broker.behaviour.answers["inspect"] = lambda arguments: {"ok": {"w1": arguments}}
    asked = client.inspect("ping", destination=["w1", "my wörker@h"])["w1"]
    assert ["w1", "my wörker@h", "my_w_rker@h"] == asked["destination"]


def test_results(broker: FakeBroker, client: Client) -> None:
    """Stored results are returned by task id, None where there is none; many ids go in several questions."""

    def answer(arguments: dict[str, list[str]]) -> dict[str, object]:
        stored = {"state": "SUCCESS", "reply": {"value": 5, "state": "SUCCESS"}}
        return {"ok": {task_id: stored if task_id == "7" else None for task_id in arguments["ids"]}}

    broker.behaviour.answers["results"] = answer

    found = client.results([str(i) for i in range(2_500)])

    assert 2_500 == len(found)
    assert found["8"] is None
    assert isinstance(found["7"], StoredResult)
    assert ("SUCCESS", 5) == (found["7"].state, found["7"].reply["value"])
    assert 3 == len(broker.asked)


def test_wait(broker: FakeBroker, client: Client) -> None:
    """Results are yielded as soon as they are final, in that order, those that were so before included."""
    broker.finish("a", value=1)
    waiting = client.wait(["a", "b", "c"], 5)

    first = next(waiting)
    broker.finish("c", "FAILURE", "no")
    second = next(waiting)
    broker.finish("b", value=2)
    rest = list(waiting)

    got = [(task_id, result.state, result.reply["value"]) for task_id, result in (first, second, *rest)]
    assert [("a", "SUCCESS", 1), ("c", "FAILURE", "no"), ("b", "SUCCESS", 2)] == got
    assert ["wait"] == [ask.verb for ask in broker.asked]


def test_wait_for_one_and_the_failures_before_it(broker: FakeBroker, client: Client) -> None:
    """What is only to be told of unless it succeeds is asked for so, and ends with what is waited for."""
    waiting = client.wait(["last"], 5, unless_done=["a", "b", "c"])
    broker.finish("b", "FAILURE", "no")
    assert ("b", "FAILURE") == (lambda told: (told[0], told[1].state))(next(waiting))
    broker.finish("last", value=1)
    assert ["last"] == [task_id for task_id, _ in waiting]

    broker.wait_until(lambda: "unwait" in [ask.verb for ask in broker.asked])
    said = [(ask.verb, dict(ask.arguments)) for ask in broker.asked]
    told = ("wait", {"ids": ["a", "b", "c"], "failures": True})
    assert [told, ("wait", {"ids": ["last"]}), ("unwait", {"ids": ["a", "c"]})] == said


def test_what_matters_unless_it_succeeds_is_not_waited_for(broker: FakeBroker, client: Client) -> None:
    """The waiting is over with what is waited for, were it nothing; and only that is named as missing."""
    assert [] == list(client.wait([], 5, unless_done=["a"]))
    with pytest.raises(TimeoutError, match=r"the result of last is not there yet"):
        list(client.wait(["last"], 0.05, unless_done=["a", "b"]))


def test_failures_are_asked_for_again_after_a_cut(broker: FakeBroker, client: Client) -> None:
    """A broker that was started anew is told which ends matter; those that were told are not asked for."""
    waiting = client.wait(["last"], 20, unless_done=["a", "b"])
    broker.finish("b", "FAILURE", "no")
    assert "b" == next(waiting)[0]
    broker.wait_until(lambda: len(broker.asked) == 2)
    broker.restart()
    broker.finish("a", "FAILURE", "no")
    assert "a" == next(waiting)[0]
    broker.finish("last", value=1)
    assert ["last"] == [task_id for task_id, _ in waiting]
    waits = [dict(ask.arguments) for ask in broker.asked if ask.verb == "wait"]
    last = {"ids": ["last"]}
    assert [{"ids": ["a", "b"], "failures": True}, last, {"ids": ["a"], "failures": True}, last] == waits


def test_wait_calls_back(broker: FakeBroker, client: Client) -> None:
    """The callback gets each result before it is yielded."""
    broker.finish("a", value=1)
    seen: list[str] = []

    for task_id, _result in client.wait(["a"], 5, on_result=lambda task_id, result: seen.append(task_id)):
        assert [task_id] == seen


def test_wait_for_nothing(broker: FakeBroker, client: Client) -> None:
    """Waiting for no id ends at once and asks nothing."""
    assert [] == list(client.wait([], 5))
    assert 0 == broker.hellos


def test_wait_times_out(broker: FakeBroker, client: Client) -> None:
    """At the time-out TimeoutError names an id, after the results that were there; the connection is kept."""
    broker.finish("a")
    waiting = client.wait(["a", "b", "c"], 0.3)

    assert "a" == next(waiting)[0]
    with within(1), pytest.raises(TimeoutError, match="result of b and 1 more"):
        next(waiting)
    client.publish(message())

    broker.wait_until(lambda: [ask.verb for ask in broker.asked] == ["wait", "unwait"])
    assert {"ids": ["b", "c"]} == broker.asked[1].arguments
    assert 1 == broker.hellos


def test_wait_left(broker: FakeBroker, client: Client) -> None:
    """Who stops taking results gives the connection back; a late result disturbs nobody."""
    broker.finish("a")
    waiting = client.wait(["a", "b"], 5)
    next(waiting)
    waiting.close()
    broker.finish("b")

    for _ in range(3):
        client.publish(message())

    assert 1 == broker.hellos


def test_wait_outlasts_a_restart(broker: FakeBroker, client: Client) -> None:
    """After a restart of the broker the wait is asked again, for what is still missing."""
    broker.finish("a")
    waiting = client.wait(["a", "b"], 10)
    next(waiting)

    def finish_later() -> None:
        broker.restart()
        broker.wait_until(lambda: len(broker.asked) == 2)
        broker.finish("b", value=2)

    finishing = threading.Thread(target=finish_later)
    finishing.start()

    assert [("b", 2)] == [(task_id, result.reply["value"]) for task_id, result in waiting]
    finishing.join()
    assert {"ids": ["b"]} == broker.asked[1].arguments


def test_wait_without_broker(free_port: Callable[[], int], connect: Callable[..., Client]) -> None:
    """Without a broker a wait goes on trying until its own limit."""
    client = connect(f"emq://127.0.0.1:{free_port()}", 0.1)

    with within(1), pytest.raises(TimeoutError):
        next(client.wait(["a"], 0.4))


def test_waiters_in_threads(broker: FakeBroker, client: Client) -> None:
    """Many threads can wait at the same time, for the same result too, while another publishes."""
    got: list[str] = []

    def wait() -> None:
        got.extend(task_id for task_id, _result in client.wait(["a"], 10))

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    broker.wait_until(lambda: len(broker.asked) == 8)
    client.publish(message())
    broker.finish("a")
    for thread in threads:
        thread.join(10)

    assert ["a"] * 8 == got


def test_waiting_costs_nothing(broker: FakeBroker, client: Client) -> None:
    """A wait is pushed to, not polled: it uses no processor time."""
    used = time.process_time()

    with pytest.raises(TimeoutError):
        list(client.wait(["a"], 1.0))

    assert time.process_time() - used < 0.2


@pytest.mark.parametrize("document", [[], {}, 1, None, {"error": None}, "ok"])
def test_an_answer_that_is_none(broker: FakeBroker, client: Client, document: object) -> None:
    """An answer that says neither ok nor error is an OperationalError that names the question."""
    broker.behaviour.answers["stats"] = lambda arguments: document if document is not None else "null"
    with pytest.raises(OperationalError, match="stats" if document != {"error": None} else "None"):
        client.ask("stats")
