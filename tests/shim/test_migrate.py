"""``celery.contrib.migrate``: messages that wait, moved by Celery's functions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from kombu import Queue

from emq_compat.celery_shim import Celery, chord
from emq_compat.shim.surface import migrate
from emq_compat.testing.broker import memory_broker
from emq_compat.transfer import browse

pytestmark = pytest.mark.integration


@pytest.fixture
def here() -> Iterator[Celery]:
    """An app of a broker, which is current."""
    with memory_broker("memory://here"), Celery("here", broker="memory://here") as app:
        yield app


@pytest.fixture
def there() -> Iterator[Celery]:
    """An app of another broker."""
    app = Celery("there", broker="memory://there", set_as_current=False)
    with memory_broker("memory://there"), app:
        yield app


def ids(app: Celery, queue: str = "celery") -> list[str]:
    """The ids of the tasks that wait in a queue."""
    return [found.headers.task_id for found in browse(app.client, queue)]


def send(app: Celery, *names: str, **options: Any) -> list[str]:
    """Publish calls of tasks of these names; their ids are ``NAME-N``."""
    return [
        app.send_task(name, (i,), {"k": name}, task_id=f"{name}-{i}", **options).id
        for i, name in enumerate(names)
    ]


def test_migrate_tasks(here: Celery, there: Celery) -> None:
    """What waits for the app's queues, or those that are named, is in the other broker, and only there."""
    send(here, "a", "b", "a")
    send(here, "c", queue="other")
    told: list[str] = []

    def tell(state: Any, body: dict[str, Any], message: Any) -> None:
        told.append(body["id"])

    state = migrate.migrate_tasks(here.connection(), there.connection(), callback=tell)
    assert (3, "3/3", ["a-0", "b-1", "a-2"]) == (state.count, repr(state), told)
    assert ([], ["a-0", "b-1", "a-2"], ["c-0"]) == (ids(here), ids(there), ids(here, "other"))
    migrate.migrate_tasks("memory://here", "memory://there", queues=["other:new"])
    assert ["c-0"] == ids(there, "new")


def test_some_tasks(here: Celery, there: Celery) -> None:
    """Only tasks of these names move, no more than the limit; without ack_messages they stay, too."""
    send(here, "a", "b", "a", "a")
    assert 2 == migrate.migrate_tasks("memory://here", "memory://there", tasks="a", limit=2).count
    assert (["b-1", "a-3"], ["a-0", "a-2"]) == (ids(here), ids(there))
    migrate.migrate_tasks("memory://here", "memory://there", tasks=["b"], ack_messages=False)
    assert (["b-1", "a-3"], ["a-0", "a-2", "b-1"]) == (ids(here), ids(there))


def test_a_migrate_of_ones_own(here: Celery, there: Celery) -> None:
    """The function that publishes may be the project's: it gets the producer, body, message and queues."""
    send(here, "a", "b", priority=7)
    seen: list[Any] = []

    def mine(producer: Any, body: dict[str, Any], message: Any, queues: dict[str, str]) -> None:
        seen.append((body["args"], body["kwargs"], message.properties["correlation_id"], queues))
        migrate.republish(producer, message, routing_key=f"for.{body['task']}")

    migrate.migrate_tasks("memory://here", "memory://there", mine, queues={"celery": "x"})
    assert [([0], {"k": "a"}, "a-0", {"celery": "x"}), ([1], {"k": "b"}, "b-1", {"celery": "x"})] == seen
    assert (["a-0"], ["b-1"]) == (ids(there, "for.a"), ids(there, "for.b"))


def test_move(here: Celery) -> None:
    """A predicate says which messages move where: by a queue, its name, a pair, or the default."""
    send(here, "a", "b", "c", "d", "e")
    where: dict[str, Any] = {"a": Queue("qa"), "b": "qb", "c": ("", "qc"), "d": True}
    state = migrate.move(lambda body, message: where.get(body["task"]), routing_key="qd")
    assert (5, 4, "^4") == (state.count, state.filtered, repr(state))
    found = {queue: ids(here, queue) for queue in ("qa", "qb", "qc", "qd", "celery")}
    assert {"qa": ["a-0"], "qb": ["b-1"], "qc": ["c-2"], "qd": ["d-3"], "celery": ["e-4"]} == found
    with pytest.raises(ValueError, match="where the message is to go"):
        migrate.move(lambda body, message: True)


def test_moves_by_ids_and_names(here: Celery) -> None:
    """The short forms: by id, by several ids, by names, to the queue of one worker."""
    here.conf.worker_direct = True
    send(here, "a", "b", "c", "d")
    migrate.move_task_by_id("a-0", "one")
    migrate.move_by_idmap({"b-1": Queue("two"), "unknown": "three"})
    migrate.move_by_taskmap({"c": "three"})
    migrate.move_direct_by_id("d-3", "w@here")
    moved = [ids(here, queue) for queue in ("one", "two", "three", "w@here.dq2", "celery")]
    assert [["a-0"], ["b-1"], ["c-2"], ["d-3"], []] == moved


def test_a_callback_may_stop_it(here: Celery, capsys: pytest.CaptureFixture[str]) -> None:
    """StopFiltering ends a move after the message it was raised for; filter_status prints each."""

    def once(state: Any, body: Any, message: Any) -> None:
        migrate.filter_status(state, body, message)
        raise migrate.StopFiltering

    send(here, "a", "b")
    assert 1 == migrate.move(lambda *_: "there", callback=once).filtered
    assert (["b-1"], "Moving task 1/2: a[a-0]\n") == (ids(here), capsys.readouterr().out)
    send(here, "c", "d")
    assert 1 == migrate.move(lambda *_: "there", limit=1).filtered


def test_what_a_chord_counts_stays(here: Celery, there: Celery) -> None:
    """A part of a chord moves to another queue, not to another broker: the state says why."""
    chord([here.signature("part")], app=here)(here.signature("body"))
    assert 1 == migrate.move(lambda *_: "elsewhere").filtered
    state = migrate.migrate_tasks("memory://here", "memory://there", queues="elsewhere")
    assert ["it is part of a chord, or others wait for its end"] == [*state.stayed.values()]
    assert 0 == state.count
    assert [] == ids(there, "elsewhere")


def test_start_filter(here: Celery) -> None:
    """A filter sees each message, may acknowledge it, and ends it all by StopFiltering."""
    send(here, "a", "b", "c")
    seen: list[str] = []

    def look(body: dict[str, Any], message: Any) -> None:
        seen.append(body["id"])
        if migrate.task_id_eq("b-1", body, message):
            message.ack()
            assert message.acknowledged

    state = migrate.start_filter(here, here.connection(), look, tasks=["a", "b"])
    assert (2, 3, ["a-0", "b-1"]) == (state.count, state.total_apx, seen)
    assert ["a-0", "c-2"] == ids(here)

    def stop(body: dict[str, Any], message: Any) -> None:
        raise migrate.StopFiltering

    assert 0 == migrate.start_filter(here, here.connection(), stop, forever=True).count
    assert 1 == migrate.start_filter(here, None, lambda *_: None, limit=1, ack_messages=True).count
    assert ["c-2"] == ids(here)
    chosen = partial(migrate.task_id_in, {"c-2"})
    assert 1 == migrate.move(chosen, routing_key="there").filtered


def test_what_is_no_connection(here: Celery) -> None:
    """Something else than a connection or an address is refused by what it is."""
    with pytest.raises(TypeError, match=r"give app\.connection"):
        migrate.migrate_tasks(object(), "memory://here")


def test_queues_are_written_in_several_ways() -> None:
    """A mapping, a list and a text name the same queues."""
    wanted = {"a": "a", "b": "c"}
    assert [wanted] * 3 == [migrate.prepare_queues(q) for q in (wanted, ["a", "b:c"], "a,b:c")]
