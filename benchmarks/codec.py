"""What the codec and the wire cost a message, in microseconds of one core.

The figures bound what a broker or worker written in Python can do: every message is read once and written
once by each of them. They also tell whether the short cuts still pay: Request.make beside the dataclass's own
__init__, frames put together from stored bytes beside encode, and wire/multipart.py beside pyzmq's methods.
"""

from __future__ import annotations

import argparse
import statistics
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import zmq

from emq_compat.message import Headers, Job, Outcome, ReplyHeaders, new_id
from emq_compat.protocol.commands import Ack, Heartbeat, Ready, Reply, Request
from emq_compat.protocol.frames import decode, encode, request_frames
from emq_compat.wire.multipart import Multipart

HEADERS = Headers(guarantee=True, task_id=new_id(), task="bench.tasks.add")
PAYLOAD = Job(path="bench.tasks", callable="add", args=[2, 3], celery={"id": HEADERS.task_id}).encode()
BODY = Outcome(state="SUCCESS", value=5).encode().body
REQUEST = Request(msgid=new_id(), queue="bench", headers=HEADERS, payload=PAYLOAD)
REPLY = Reply(
    msgid="1",
    body=BODY,
    request_msgid=REQUEST.msgid,
    headers=ReplyHeaders(attempt=1, state="SUCCESS"),
)
COMMANDS = (REQUEST, REPLY, Ready(msgid="1", count=3), Heartbeat(msgid="1", timestamp=1.7e9))
ROUNDS = 5


def show(what: str, run: Callable[[], object], count: int) -> None:
    """Print the median of some rounds, and their spread."""
    rounds = [timeit.timeit(run, number=count) / count * 1e6 for _ in range(ROUNDS)]
    print(f"{what:<44} {statistics.median(rounds):7.2f} us   ({min(rounds):.2f} to {max(rounds):.2f})")


def codec(count: int) -> None:
    """Encode and decode by themselves."""
    for command in COMMANDS:
        name, frames = type(command).__name__.upper(), encode(command)
        show(f"encode {name}", partial(encode, command), count)
        show(f"decode {name}", partial(decode, frames), count)
    acks = Ack(msgid="1", acked=tuple(new_id() for _ in range(256)))
    frames = encode(acks)
    show("encode ACK of 256", lambda: encode(acks), count // 20)
    show("decode ACK of 256", lambda: decode(frames), count // 20)
    msgid, queue, text = REQUEST.msgid.encode(), b"bench", f"{HEADERS.encode()},attempt:1".encode()
    show("REQUEST from stored bytes", lambda: request_frames(msgid, queue, text, PAYLOAD), count)
    show("Request.make", lambda: Request.make(REQUEST.msgid, "bench", HEADERS, PAYLOAD, text), count)
    show(
        "Request(…)",
        partial(Request, msgid=REQUEST.msgid, queue="bench", headers=HEADERS, payload=PAYLOAD),
        count,
    )
    show("Headers.encode", HEADERS.encode, count)
    header_text = HEADERS.encode()
    show("Headers.decode", lambda: Headers.decode(header_text), count)
    show("new_id", new_id, count)


@contextmanager
def pair() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """Two sockets joined within the process: what is left is pyzmq's price, not the kernel's."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    ends = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    for end in ends:
        end.setsockopt(zmq.SNDHWM, 0)
        end.setsockopt(zmq.RCVHWM, 0)
        end.setsockopt(zmq.LINGER, 0)
    ends[0].bind("inproc://codec")
    ends[1].connect("inproc://codec")
    try:
        yield ends
    finally:
        context.destroy(linger=0)


def wire(count: int) -> None:
    """Send and receive a REQUEST of seven frames, by our Multipart and by pyzmq's methods."""
    frames = encode(REQUEST)
    with pair() as (left, right):
        out, into = Multipart(left), Multipart(right)
        for what, send, receive in (
            ("Multipart", lambda: out.send(frames), into.receive),
            ("pyzmq", lambda: left.send_multipart(frames, zmq.NOBLOCK), right.recv_multipart),
        ):
            show(f"send by {what}", send, count)
            show(f"receive by {what}", receive, count)  # of what was just sent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=20_000, help="calls a round")
    options = parser.parse_args()
    codec(options.n)
    wire(options.n)


if __name__ == "__main__":
    main()
