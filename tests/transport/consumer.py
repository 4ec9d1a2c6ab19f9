"""A consumer in a process of its own: takes messages of a queue, says so, and acknowledges all but some."""

from __future__ import annotations

import sys
from typing import Any

from kombu import Connection, Consumer, Queue


def main(url: str, queue: str, prefetch: str, acknowledge: str) -> None:
    """Consume until killed; `acknowledge` is `all` or `none`."""
    with Connection(url) as connection:

        def take(message: Any) -> None:
            print(f"took {message.payload} {message.delivery_info['redelivered']}", flush=True)
            if acknowledge == "all":
                message.ack()

        consumer = Consumer(connection.default_channel, [Queue(queue)], on_message=take)
        consumer.qos(prefetch_count=int(prefetch))
        with consumer:
            print("consuming", flush=True)
            while True:
                connection.drain_events()


if __name__ == "__main__":
    main(*sys.argv[1:])
