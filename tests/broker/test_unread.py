"""Results go to who reads: what is too much for a client now waits on disk."""

from __future__ import annotations

import json

import pytest

from emq_compat.broker import results as module
from emq_compat.broker.asks import Asks
from emq_compat.broker.unread import ALL_BYTES, CLIENT_BYTES, SMALL_BYTES, Unread
from emq_compat.errors import MessageError
from emq_compat.protocol.commands import Answer, Ask, Reply
from tests.broker.bench import CLIENT, Bench, hello

MB = 1 << 20


def stored(bench: Bench, count: int, size: int = 3 * MB) -> list[str]:
    """So many results, of so many bytes each."""
    ids = [f"t{n:02}" for n in range(count)]
    for task_id in ids:
        bench.engine.results.put(task_id, "SUCCESS", b'{"value":"' + b"x" * size + b'"}', bench.now)
    bench.turn()
    return ids


def pushed(bench: Bench) -> list[str]:
    """Whose results were pushed in this turn."""
    bench.turn()
    return [reply.request_msgid for reply in bench.commands(Reply)]


def test_a_client_is_full() -> None:
    """A client is full with 16 MB; with 256 MB under way to all of them with one."""
    unread = Unread()
    unread.add(b"a", CLIENT_BYTES - 1)
    assert not unread.full(b"a")
    unread.add(b"a", 1)
    assert unread.full(b"a")
    assert {b"a"} == unread.many
    unread.add(b"c", SMALL_BYTES)
    assert not unread.full(b"c")
    unread.add(b"b", ALL_BYTES)
    assert unread.full(b"c")
    unread.read(b"b")
    unread.read(b"a")
    assert not unread.full(b"c")
    assert SMALL_BYTES == unread.total


@pytest.mark.parametrize("every", [False, True])
def test_results_wait_until_the_client_has_read(every: bool) -> None:
    """Of many large results a client is sent some, the next when it has read them, and each once."""
    bench = Bench()
    ids = stored(bench, 20)
    results, unread = bench.engine.results, bench.engine.desk.unread
    results.wait(CLIENT, ids, bench.now, every=every)
    got = pushed(bench)
    assert ids[:6] == got
    assert results.postponed
    while results.postponed:
        assert [] == pushed(bench)
        unread.read(CLIENT)
        results.resume(CLIENT)
        more = pushed(bench)
        assert len(more) <= 6
        got += more
    assert ids == got


def test_what_ends_while_the_client_is_full_waits_too() -> None:
    """A result that comes for a client that doesn't read is pushed when it does."""
    bench = Bench()
    results, unread = bench.engine.results, bench.engine.desk.unread
    results.wait(CLIENT, ["x"], bench.now)
    unread.add(CLIENT, CLIENT_BYTES)
    results.put("x", "SUCCESS", b"{}", bench.now)
    assert [] == pushed(bench)
    unread.read(CLIENT)
    results.resume(CLIENT)
    assert ["x"] == pushed(bench)


@pytest.mark.parametrize("how", ["unwait", "gone"])
def test_what_waits_is_forgotten(how: str) -> None:
    """What was postponed for a client is forgotten when it waits no more, and when it is gone."""
    bench = Bench()
    results, unread = bench.engine.results, bench.engine.desk.unread
    unread.add(CLIENT, CLIENT_BYTES)
    ids = stored(bench, 2, 10)
    results.wait(CLIENT, ids, bench.now)
    if how == "gone":
        bench.engine.client_gone(CLIENT, bench.now)
        assert 0 == unread.total
    else:
        results.unwait(CLIENT, ids)
        unread.read(CLIENT)
    results.resume(CLIENT)
    assert [] == pushed(bench)


def test_many_waits_are_looked_through_seldom() -> None:
    """A wait that isn't renewed is forgotten: of a few in time, of very many some seconds later."""

    def left(count: int, after_s: float) -> int:
        bench = Bench()
        results, now = bench.engine.results, bench.now
        results.wait(CLIENT, [f"t{n}" for n in range(count)], now)
        for later in (module.WAIT_S - 1, after_s):
            results.expire(now._replace(mono=now.mono + later))
        return results.waiting

    assert [0, 20_000, 0] == [left(10, 151), left(20_000, 151), left(20_000, 160)]


def test_who_doesnt_read_is_refused() -> None:
    """A question of a client that doesn't read is refused in a few words, but for waits."""
    bench = Bench()
    asks = Asks(bench.engine, lambda file, done: None, bench.now)
    bench.engine.desk.unread.add(CLIENT, CLIENT_BYTES)
    asks.ask(CLIENT, Ask(msgid="a", verb="stats", arguments={}), bench.now)
    asks.ask(CLIENT, Ask(msgid="b", verb="wait", arguments={"ids": ["x"]}), bench.now)
    bench.turn()
    [answer] = bench.commands(Answer)
    assert "a" == answer.asked
    assert "BrokerRefused" == json.loads(answer.body)["error"]["type"]
    assert 1 == bench.engine.results.waiting


def test_an_answer_has_an_end() -> None:
    """Results that are too much for one answer are an error that says so."""
    bench = Bench(max_message_bytes=5 * MB)
    ids = stored(bench, 2)
    assert [ids[0]] == list(bench.engine.results.get(ids[:1]))
    with pytest.raises(MessageError, match="ask for fewer"):
        bench.engine.results.get(ids)


def test_waits_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of waits no more are taken; the others go on, and make room when they end."""
    monkeypatch.setattr(module, "MOST_WAITS", 3)
    bench = Bench()
    results = bench.engine.results
    results.wait(CLIENT, ["a", "b"], bench.now)
    results.wait(b"client.2", ["a"], bench.now)
    results.wait(CLIENT, ["a", "b"], bench.now)
    with pytest.raises(MessageError, match="no more can be"):
        results.wait(CLIENT, ["c"], bench.now)
    results.expire(bench.now)
    results.put("a", "SUCCESS", b"{}", bench.now)
    results.unwait(CLIENT, ["b", "never"])
    results.wait(CLIENT, ["c", "d", "e"], bench.now)
    bench.mono += module.WAIT_S
    results.expire(bench.now)
    results.wait(CLIENT, ["f", "g", "h"], bench.now)
    assert 3 == results.waiting


def test_who_has_read_all_is_sent_more_at_once() -> None:
    """A client that reads gets large results as fast as it asks, and in one turn no more than its share."""
    bench = Bench()
    ids = stored(bench, 20)
    results, unread = bench.engine.results, bench.engine.desk.unread
    unread.held = lambda client: 0
    results.wait(CLIENT, ids[:10], bench.now)
    assert ids[:6] == pushed(bench)
    got = []
    for task_id in ids[10:]:
        results.wait(CLIENT, [task_id], bench.now)
        got += pushed(bench)
    assert ids[10:] == got


@pytest.mark.parametrize(("held", "refused"), [(0, False), (1, True)])
def test_who_has_read_all_may_ask_at_once(held: int, refused: bool) -> None:
    """What a client was sent is counted until the next look; nothing is refused if no byte of it is left."""
    b = Bench()
    asks = Asks(b.engine, lambda file, done: None, b.now)
    b.engine.asker = asks.ask
    unread = b.engine.desk.unread
    unread.held = lambda client: held
    unread.add(CLIENT, CLIENT_BYTES)
    b.turn((CLIENT, hello()))
    b.turn((CLIENT, Ask(msgid="a", verb="queues", arguments={})))
    assert refused == any(b"are unread" in said.body for said in b.commands(Answer))
