"""What a task costs in the broker's engine and journal, without sockets.

    python benchmarks/engine.py [-n TASKS] [--durability full|normal] [--batch 256] [--profile]

Prints microseconds a task for publishing, handing out and ending, each with its journal writes.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

from emq_compat.broker.engine import Engine, EngineOptions
from emq_compat.broker.records import Dispatch, Moment
from emq_compat.broker.store import Store
from emq_compat.message import Headers, Job, ReplyHeaders, new_id
from emq_compat.protocol.commands import Capabilities, Hello, Inform, Ready, Reply, Request


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--durability", default="full")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "data", durability=options.durability)
        now = Moment(time.time(), time.monotonic())
        engine = Engine(store, EngineOptions(), {}, now)
        engine.from_client(b"c", Hello(msgid="h", about={}), now)
        payload = Job(path="peer_emq", callable="count").encode()
        requests = []
        for _ in range(options.n):
            h = Headers(guarantee=True, no_result=True, task="peer_emq.count", task_id=new_id())
            requests.append(
                Request(
                    msgid=new_id(),
                    queue="celery",
                    headers=h,
                    payload=payload,
                    header_text=h.encode().encode(),
                )
            )

        def turn(from_client: list[Request], from_worker: list[object]) -> list[object]:
            now = Moment(time.time(), time.monotonic())
            engine.begin_turn(from_client)
            for r in from_client:
                engine.from_client(b"c", r, now)
            for c in from_worker:
                engine.from_worker(b"w.1", c, now)
            engine.tick(now)
            engine.hand_out(now)
            engine.close_turn(now)
            store.commit()
            return engine.take_outbox()

        profile = cProfile.Profile()
        if options.profile:
            profile.enable()
        t0 = time.perf_counter()
        for i in range(0, options.n, options.batch):
            turn(requests[i : i + options.batch], [])
        t1 = time.perf_counter()
        inform = Inform(
            msgid="i",
            queues=((0, "celery"),),
            capabilities=Capabilities(slots=2, tasks={"peer_emq.count": ""}),
        )
        sent = turn([], [inform, Ready(msgid="r", count=66)])
        done = 0
        while True:
            dispatched = [s for s in sent if isinstance(s, Dispatch)]
            if not dispatched:
                break
            replies: list[object] = [
                Reply(
                    msgid="x",
                    body=b'{"value": null}',
                    request_msgid=d.msgid,
                    headers=ReplyHeaders(attempt=1, state="SUCCESS"),
                )
                for d in dispatched
            ]
            done += len(replies)
            sent = turn([], [*replies, Ready(msgid="r", count=len(replies))])
        t2 = time.perf_counter()
        profile.disable()
        assert done == options.n, done
        print(
            f"publish {(t1 - t0) / options.n * 1e6:.1f} us, "
            f"hand out and end {(t2 - t1) / options.n * 1e6:.1f} us a task"
        )
        if options.profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(22)
        store.close()


if __name__ == "__main__":
    main()
