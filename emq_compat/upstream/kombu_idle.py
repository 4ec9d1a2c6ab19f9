"""How an idle worker waits for messages in Redis: each is moved, as it comes, to a list of the worker's.

BRPOP, by which kombu waits, hands a message to a process that may be killed before it has it: then it is
nowhere. A message that was moved is still in Redis, and whoever looks after the dead puts it back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import redis
from kombu.asynchronous.hub import Hub
from kombu.utils.encoding import bytes_to_str

from emq_compat.upstream.kombu_scripts import UNMOVE, call

__all__ = ["WAITS", "Idle", "put_back"]

#: Before a worker's name, the hash: list of its own → list that its messages come from; and that list's name.
WAITS: Final = "emq-compat.waits."
MOVED: Final = "emq-compat.moved."
#: Each list that is waited for takes a connection; the others are looked at every second.
_MOST: Final = 16
#: Seconds that a wait lasts: as long as kombu's, so that nothing waits for long that isn't wanted any more.
_WAIT_S: Final = 1


class Idle:
    """Waits, by a connection for each list.

    Args:
        client: redis-py's, whose pool has the connections.
        hub: the thread's loop.
        prefix: before every key.
        worker: its name.
        came: is called with (list of its own, list that its messages come from) when one has come.
    """

    def __init__(
        self, client: Any, hub: Hub, prefix: str, worker: str, came: Callable[[str, str], None]
    ) -> None:
        self._client, self._hub, self._came = client, hub, came
        self._waits = f"{prefix}{WAITS}{worker}"
        self._moved = f"{prefix}{MOVED}{worker}."
        self._lists: dict[str, str] = {}
        self._connections: dict[str, Any] = {}
        self._waiting: set[str] = set()

    def listen(self, lists: Sequence[str]) -> None:
        """Wait for messages of these lists from now on; what came from them and was left is told of."""
        self._lists = {name: f"{self._moved}{name}" for name in lists[:_MOST]}
        mapping = [part for name, own in self._lists.items() for part in (own, name)]
        if mapping:
            redis.Redis.execute_command(self._client, "HSET", self._waits, *mapping)
        for name, own in self._lists.items():
            self._came(own, name)

    def wait(self) -> None:
        """Wait for one message of each list, where this isn't done already."""
        for name, own in self._lists.items():
            if name not in self._waiting:
                connection = self._connections.get(name) or self._connect(name)
                connection.send_command("BRPOPLPUSH", name, own, _WAIT_S)
                self._waiting.add(name)

    def _connect(self, name: str) -> Any:
        connection = self._connections[name] = self._client.connection_pool.get_connection()
        self._hub.add_reader(connection._sock.fileno(), self._readable, name)
        return connection

    def _readable(self, name: str) -> None:
        message = self._connections[name].read_response()
        self._waiting.discard(name)
        if message is not None:
            self._came(f"{self._moved}{name}", name)

    def close(self) -> None:
        """Wait no more, which takes a second at most, and put back what has come."""
        for name in list(self._waiting):
            self._connections[name].read_response()
        self._waiting.clear()
        for connection in self._connections.values():
            self._hub.remove_reader(connection._sock.fileno())
            self._client.connection_pool.release(connection)
        self._connections.clear()
        put_back(self._client, self._waits)


def put_back(client: Any, waits: str) -> int:
    """Put back what was moved for a worker, by its hash ``waits``; return how many messages."""
    answer: Any = redis.Redis.execute_command(client, "HGETALL", waits)
    lists = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
    keys = [bytes_to_str(part) for pair in lists.items() for part in pair]
    return int(call(client, UNMOVE, [waits, *keys], ()))
