"""Messages that wait in a broker: looked at, moved to another queue, moved to another broker.

Between two brokers a message first goes into a queue of the source that nobody listens on, then it is
published, and only once that is confirmed it is dropped. Its new msgid follows from its old one. So what is
cut off in between loses nothing and lets nothing run twice: the next transfer of that queue begins with what
is left there, and what the other broker has got already it knows.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from emq_compat.client import Client
from emq_compat.errors import ConfigurationError, NotPublished
from emq_compat.message import Headers, Publish

__all__ = ["Found", "Transfer", "browse", "drop", "left_by", "move", "on_its_way", "transfer"]

#: Messages that are looked at, or moved, at a time.
PAGE = 500

_LEAVING = "emq.leaving."


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A message that waits in a queue.

    Attributes:
        payload: None: it is larger than what can be shown (24 MiB).
        stays: it can't leave its broker, which counts it for a chord, or where others wait for its end.
        revoked: its task is revoked: it will never run.
        apart: it waits for its ETA, or for its turn at a limit that it shares.
    """

    msgid: str
    queue: str
    headers: Headers
    payload: bytes | None
    stays: bool = False
    revoked: bool = False
    apart: bool = False

    @property
    def movable(self) -> bool:
        """Whether it can be published to another broker."""
        return not self.stays and not self.revoked and self.payload is not None


def browse(client: Client, queue: str) -> Iterator[Found]:
    """Yield what waits in a queue, in the order of hand-out, then what is set apart; nothing is taken.

    What is handed out, or comes, meanwhile may be among it or not.

    Raises:
        OperationalError: no broker of ours answers.
    """
    for apart in (False, True):
        after = 0
        while rows := client.ask("browse", queue=queue, after=after, limit=PAGE, apart=apart):
            for row in rows:
                text = row["payload"]
                payload = base64.b64decode(row["base64"]) if "base64" in row else None
                yield Found(
                    msgid=row["msgid"],
                    queue=queue,
                    headers=Headers.decode(row["headers"]),
                    payload=text.encode() if text is not None else payload,
                    stays=row["stays"],
                    revoked=row["revoked"],
                    apart=apart,
                )
            after = rows[-1]["key"]


def move(client: Client, queue: str, msgids: Sequence[str], to: str) -> list[str]:
    """Move messages to another queue of their broker, behind what waits there; returns which have moved.

    In one transaction for each 500. One that a worker has been given, or that must stay, is passed over.

    Raises:
        BrokerRefused: ``to`` is no queue's name.
        OperationalError: no answer in time.
    """
    return _asked(client, "move", queue, msgids, to=to)


def drop(client: Client, queue: str, msgids: Sequence[str]) -> list[str]:
    """Drop messages of a queue that are not handed out; returns which. Nothing is told of their tasks."""
    return _asked(client, "drop", queue, msgids)


def _asked(client: Client, verb: str, queue: str, msgids: Sequence[str], **more: Any) -> list[str]:
    done: list[str] = []
    for i in range(0, len(msgids), PAGE):
        done += client.ask(verb, queue=queue, msgids=list(msgids[i : i + PAGE]), **more)
    return done


def on_its_way(queue: str) -> str:
    """Return the name of the source's queue in which what leaves ``queue`` waits for its confirmation."""
    return _LEAVING + queue


def left_by(name: str) -> str:
    """Return the queue for which ``on_its_way`` gives this name; empty: for none."""
    return name.removeprefix(_LEAVING) if name.startswith(_LEAVING) else ""


@dataclass(slots=True, kw_only=True)
class Transfer:
    """What became of a queue's messages.

    Attributes:
        moved: are in the other broker.
        stayed: msgids of those that were wanted and couldn't be moved → why.
    """

    moved: int = 0
    stayed: dict[str, str] = field(default_factory=dict)


def transfer(
    source: Client,
    dest: Client,
    queue: str,
    to: str | None = None,
    *,
    choose: Callable[[Found], bool] = lambda found: True,
    on_moved: Callable[[Found], object] | None = None,
    publish: Callable[[Found], object] | None = None,
    limit: int | None = None,
) -> Transfer:
    """Move what waits in a queue of one broker to another broker; above stands what holds if it is cut off.

    Args:
        to: the queue there; by default one of the same name.
        choose: called with each message: whether it is to be moved.
        on_moved: called with each message once it is confirmed there.
        publish: called with each message instead of publishing it; what it raises brings that one back.
        limit: how many to move.

    Raises:
        ConfigurationError: one of them is a stock router, or both are the same broker.
        OperationalError: one of them doesn't answer; what is on its way is in ``on_its_way(queue)``.
    """
    _check(source, dest)
    done = Transfer()
    way = _Way(source, dest, queue, to or queue, publish=publish)
    # Who is told of each may have it stop after any.
    size = PAGE if on_moved is None and publish is None else 1
    for page in _pages(browse(source, way.leaving), size):
        way.go(page, done)
        _tell(page, done, on_moved)
    for page in _pages(_chosen(browse(source, queue), choose, done, limit), size):
        left = set(move(source, queue, [found.msgid for found in page], way.leaving))
        gone = [found for found in page if found.msgid in left]
        way.go(gone, done)
        _tell(gone, done, on_moved)
    return done


def _tell(page: Iterable[Found], done: Transfer, on_moved: Callable[[Found], object] | None) -> None:
    for found in page if on_moved is not None else ():
        if found.msgid not in done.stayed:
            on_moved(found)  # type: ignore[misc]


def _check(source: Client, dest: Client) -> None:
    if source.stock or dest.stock:
        raise ConfigurationError("messages are moved between brokers of ours: a stock router gives none out")
    if source.ask("stats")["broker"] == dest.ask("stats")["broker"]:
        same = f"{source.addresses[0]} and {dest.addresses[0]}"
        raise ConfigurationError(f"{same} are the same broker: move messages from queue to queue there")


def _chosen(
    messages: Iterable[Found], choose: Callable[[Found], bool], done: Transfer, limit: int | None
) -> Iterator[Found]:
    count = 0
    for found in messages:
        if limit is not None and count >= limit:
            return
        if not choose(found):
            continue
        if found.movable:
            count += 1
            yield found
        else:
            done.stayed[found.msgid] = _why(found)


def _msgid_there(found: Found) -> str:
    """Return the msgid in the other broker: the same at each try, and never one that the message has had."""
    return uuid.uuid5(uuid.NAMESPACE_OID, found.msgid).hex


def _why(found: Found) -> str:
    if found.stays:
        return "it is part of a chord, or others wait for its end"
    return "its task is revoked" if found.revoked else "it is too large to be passed on"


def _pages(messages: Iterable[Found], size: int) -> Iterator[list[Found]]:
    page: list[Found] = []
    for found in messages:
        page.append(found)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page


class _Way:
    """From a queue of one broker to a queue of another."""

    def __init__(
        self, source: Client, dest: Client, queue: str, to: str, *, publish: Callable[[Found], object] | None
    ) -> None:
        self.leaving = on_its_way(queue)
        self._source, self._dest = source, dest
        self._queue, self._to = queue, to
        self._publish = publish

    def go(self, page: Sequence[Found], done: Transfer) -> None:
        """Publish what is on its way, and drop what is confirmed; what the other refuses goes back."""
        refused: dict[str, str] = {}
        try:
            if self._publish is None:
                self._dest.publish_all(map(self._published, page))
            for found in page if self._publish is not None else ():
                self._publish(found)  # type: ignore[misc]
        except NotPublished as exc:
            missing = set(exc.msgids)
            refused = {found.msgid: str(exc) for found in page if _msgid_there(found) in missing}
        except Exception:
            move(self._source, self.leaving, [found.msgid for found in page], self._queue)
            raise
        confirmed = [found.msgid for found in page if found.msgid not in refused]
        drop(self._source, self.leaving, confirmed)
        done.moved += len(confirmed)
        if refused:
            move(self._source, self.leaving, list(refused), self._queue)
            done.stayed.update(refused)

    def _published(self, found: Found) -> Publish:
        assert found.payload is not None, "only what is movable leaves"
        return Publish(
            queue=self._to, headers=found.headers, payload=found.payload, msgid=_msgid_there(found)
        )
