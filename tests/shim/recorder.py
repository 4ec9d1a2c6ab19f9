"""A client that keeps what is published, and a worker's step on it: the shim without sockets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from emq_compat.client import StoredResult
from emq_compat.errors import NotPublished, OperationalError
from emq_compat.message import FINAL_STATES, SUCCESS, Delivery, Headers, Job, Publish, Reply
from emq_compat.shim.program import ShimProgram


class Recorder:
    """Stands for emq_compat.client.Client: keeps messages in ``published``, results by task id in ``stored``.

    The next publishes raise what is in ``failures``, one each; ``refuse`` names msgids' positions in a bulk.
    """

    def __init__(self, *, stock: bool = False) -> None:
        self.stock = stock
        self.published: list[Publish] = []
        self.bulks: list[list[Publish]] = []
        self.failures: list[Exception] = []
        self.refused: set[int] = set()
        self.tried: list[str] = []
        self.stored: dict[str, StoredResult] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {}

    def publish(self, message: Publish) -> None:
        self.tried.append(message.msgid)
        if self.failures:
            raise self.failures.pop(0)
        self.published.append(message)

    def publish_all(self, messages: Iterable[Publish]) -> None:
        bulk = list(messages)
        self.bulks.append(bulk)
        missing = tuple(m.msgid for i, m in enumerate(bulk) if i in self.refused)
        self.published += [m for m in bulk if m.msgid not in missing]
        if missing:
            raise NotPublished(f"{len(missing)} of {len(bulk)} messages were refused", msgids=missing)

    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any:
        self.asked.append((verb, arguments))
        return self.answers.get(verb)

    def results(self, ids: Sequence[str]) -> Mapping[str, StoredResult | None]:
        return {task_id: self.stored.get(task_id) for task_id in ids}

    def wait(
        self, ids: Iterable[str], timeout_s: float | None, *, unless_done: Iterable[str] = ()
    ) -> Iterator[tuple[str, StoredResult]]:
        if self.stock:
            raise OperationalError("a stock router keeps no results")
        for task_id in unless_done:
            result = self.stored.get(task_id)
            if result is not None and result.state in FINAL_STATES - {SUCCESS}:
                yield task_id, result
        for task_id in ids:
            result = self.stored.get(task_id)
            if result is None or result.state not in FINAL_STATES:
                raise TimeoutError(f"the result of {task_id} is not there yet")
            yield task_id, result

    @property
    def last(self) -> Publish:
        """The message that was published last."""
        return self.published[-1]

    @property
    def last_job(self) -> Job:
        """The job in it."""
        return Job.decode(self.last.payload)


def delivered(message: Publish, **changes: Any) -> Delivery:
    """Return a message as a worker gets it from the broker, its headers having been on the wire."""
    headers = replace(Headers.decode(message.headers.encode()), **{"attempt": 1, **changes})
    return Delivery(msgid=message.msgid, queue=message.queue, headers=headers, payload=message.payload)


class Worker:
    """Runs an app's messages as a worker's child does, and puts the results where the Recorder finds them."""

    def __init__(self, program: ShimProgram, client: Recorder) -> None:
        self.program = program
        self.client = client
        self.reports: list[tuple[str, bytes]] = []
        self.runs = 0

    def run(self, message: Publish, **changes: Any) -> Reply:
        """Run one message; ``changes`` are to the headers with which the broker delivers it."""
        self.runs += 1
        reply = self.program.work(delivered(message, **changes), self._report)
        task_id = message.headers.task_id
        if task_id and not message.headers.no_result:
            self.client.stored[task_id] = StoredResult(reply.state, body=reply.body)
        return reply

    def run_to_end(self, message: Publish) -> list[Reply]:
        """Run a message and what follows up on it, retries at once."""
        replies = []
        waiting = [message]
        while waiting:
            reply = self.run(waiting.pop(0))
            replies.append(reply)
            waiting += reply.follow_ups
        return replies

    def _report(self, state: str, body: bytes) -> None:
        self.reports.append((state, body))
