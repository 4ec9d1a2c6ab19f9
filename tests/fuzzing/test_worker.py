"""The worker's socket under a flood of nonsense from its broker: it lives, stays small, and finds back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from emq_compat.message import new_id
from emq_compat.protocol.commands import Ack, Heartbeat, Hello, Inform
from emq_compat.protocol.frames import decode, encode
from tests.fuzzing.messages import Fuzz
from tests.fuzzing.test_broker import GROWTH_MIB, LONG, SHORT, rss_mib
from tests.processes import Proc, Procs, wait_until
from tests.site import Site

pytestmark = pytest.mark.faults


class EvilBroker:
    """Takes a worker in as our broker would, and then says anything."""

    def __init__(self, port: int) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.SNDTIMEO, 30_000)
        self.socket.bind(f"tcp://127.0.0.1:{port}")
        self.worker = b""
        self.heard = 0

    def close(self) -> None:
        self.socket.close()
        self.context.term()

    def take_in(self) -> None:
        """Wait for a worker's INFORM and answer it as our broker does."""

        def informed() -> bool:
            self.drain()
            return bool(self.worker)

        wait_until(informed, 20, what="the worker's INFORM")

    def drain(self) -> None:
        """Read what the worker says; every INFORM of its is acknowledged."""
        while self.socket.poll(0):
            identity, *frames = self.socket.recv_multipart()
            self.heard += 1
            self.worker = identity
            command = decode(frames)
            if isinstance(command, Inform):
                self.say(Ack(msgid=new_id(), acked=(command.msgid,)))
                self.say(Hello(msgid=new_id(), about={"broker": "evil", "dead_after_s": 10.0}))
                self.say(Heartbeat(msgid=new_id(), timestamp=time.time()))

    def say(self, command: Ack | Hello | Heartbeat) -> None:
        """Send a command to the worker."""
        self.socket.send_multipart([self.worker, *encode(command)])

    def flood(self, count: int, seed: int) -> None:
        """Send so many messages, reading what comes back, and wait until the worker has read them."""
        fuzz = Fuzz(seed, without=(b"DISCONNECT", b"KBYE", b"KBAI"))
        for n, frames in enumerate(fuzz.messages(count)):
            try:
                self.socket.send_multipart([self.worker, *frames])
            except zmq.ZMQError as exc:
                if exc.errno != zmq.EHOSTUNREACH:
                    raise
                # It is connecting again, under another name.
                self.worker = b""
                self.take_in()
            if n % 50 == 0:
                self.drain()
        self.heard = 0

        def answered() -> bool:
            self.drain()
            return self.heard > 0

        wait_until(answered, 30, what="the worker's next heartbeat")


def fuzz_the_worker(site: Site, start: Callable[[], Proc], count: int) -> Proc:
    """Flood a worker twice, look at its memory between, then give it a real broker, which it must find."""
    evil = EvilBroker(site.ports["backend"])
    try:
        proc = start()
        evil.take_in()
        evil.flood(count // 2, seed=3)
        before = rss_mib(proc.pid)
        evil.flood(count // 2, seed=4)
        assert rss_mib(proc.pid) - before < GROWTH_MIB
    finally:
        evil.close()
    site.start_broker()
    assert proc.alive()
    assert "Traceback" not in proc.output()
    return proc


def fuzz_a_worker(site: Site, count: int) -> None:
    """An app's worker."""

    def start() -> Proc:
        argv = ("worker", "-A", "siteproj", "-b", site.url, "-c", "2", "-l", "warning")
        return site.procs.emq(*argv, cwd=site.folder)

    fuzz_the_worker(site, start, count)
    assert "found" == site.tasks.ping.delay("found").get(timeout=40)


def test_nonsense_at_a_worker(site: Site) -> None:
    """Thousands of random and mutated messages neither kill nor fill the worker; it then serves a broker."""
    fuzz_a_worker(site, SHORT)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_much_nonsense_at_a_worker(site: Site) -> None:
    """The same with 200,000 messages."""
    fuzz_a_worker(site, LONG)


def test_nonsense_at_a_job_manager(site: Site, tmp_path: Path, procs: Procs) -> None:
    """A plain job manager survives as well; nothing runs that --allow does not allow."""
    (tmp_path / "fuzz.py").write_text(
        f"def job(n):\n    open({str(tmp_path / 'ran')!r}, 'a').write('x')\n    return n\n"
    )

    def start() -> Proc:
        argv = ("jobmanager", "--allow", "fuzz.*", "-b", site.url, "-Q", "fuzz", "-c", "1", "-l", "critical")
        return procs.emq(*argv, env={"PYTHONPATH": str(tmp_path)})

    fuzz_the_worker(site, start, SHORT)
    called = procs.emq("call", "fuzz:job", "-a", json.dumps([7]), "-Q", "fuzz", "-b", site.url, "-t", "40")
    assert 0 == called.wait(60), called.output()
    assert "7" in called.output()
