"""Stock eventmq's programs as processes of a test."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.environments import ROOT, stock_eventmq
from tests.processes import Proc, Procs

TASKS = Path(__file__).resolve().parent / "tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class StockEnvironment:
    """A virtual environment that holds stock eventmq."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def script(self, name: str) -> Path:
        """The path of one of eventmq's scripts: emq-router, emq-jobmanager, emq-cli …"""
        return self.folder / "bin" / name


def stock_environment(folder: Path = ROOT / ".stock-venv") -> StockEnvironment:
    """The environment in `folder`, made on first use and again when its requirements change.

    :raises EnvironmentMissing: when pip could not install it.
    """
    stock_eventmq(folder)
    return StockEnvironment(folder=folder)


class Stock:
    """Starts stock routers, job managers, schedulers and clients, all on 127.0.0.1."""

    def __init__(self, environment: StockEnvironment, procs: Procs, folder: Path) -> None:
        self.environment = environment
        self.procs = procs
        self.folder = folder
        self._managers: list[Proc] = []

    def close(self) -> None:
        """Kill the job managers with their children: they would take a second each to end by themselves."""
        for manager in self._managers:
            if manager.alive():
                for child in manager.children():
                    child.kill()
                manager.kill()

    def router(self, *, frontend: str, backend: str, admin: str, **settings: str) -> Proc:
        """A router at three addresses (`tcp://127.0.0.1:…`); `settings` are eventmq's, in upper case."""
        addresses = {"FRONTEND_ADDR": frontend, "BACKEND_ADDR": backend, "ADMINISTRATIVE_ADDR": admin}
        return self.procs.start(
            self.environment.script("emq-router"),
            env=self._env({**addresses, "WAL": str(self.folder / "wal" / "wal.log"), **settings}),
            ready="Listening for administrative commands",
        )

    def jobmanager(
        self,
        *,
        broker: str,
        jobs: int = 2,
        queues: Sequence[tuple[int, str]] = ((10, "default"),),
        wait: bool = True,
        path: Sequence[str | os.PathLike[str]] = (),
        **settings: str,
    ) -> Proc:
        """A job manager of `jobs` processes that serves `broker`, the router's workers' address.

        Its ZeroMQ identity is a random uuid: its option -n names it in its own log only. It says READY after
        the broker's first HEARTBEAT.

        :param queues: (weight, name); empty: its INFORM names none, as with its option -Q.
        :param wait: wait for the router's ACK.
        :param path: further folders of importable modules, beside the sample tasks.
        """
        addresses = dict.fromkeys(("WORKER_ADDR", "WORKER_ADDR_DEFAULT", "WORKER_ADDR_FAILOVER"), broker)
        argv = ["-B", broker, "-J", str(jobs)]
        if queues:
            addresses["QUEUES"] = json.dumps(queues)
        else:
            argv += ["-Q", "default"]  # whatever -Q names, the INFORM then holds no queue
        manager = self.procs.start(
            self.environment.script("emq-jobmanager"),
            *argv,
            env=self._env({**addresses, **settings}, path),
            ready="Starting event loop" if wait else None,
            may_orphan=True,
        )
        self._managers.append(manager)
        return manager

    def scheduler(
        self, *, frontend: str, redis_port: int | None = None, wait: bool = True, **settings: str
    ) -> Proc:
        """A scheduler at the router's clients' address; without a Redis it keeps its schedules in memory."""
        redis = {"RQ_PORT": str(redis_port or 1), "REDIS_STARTUP_ERROR_HARD_KILL": "false"}
        return self.procs.start(
            self.environment.script("emq-scheduler"),
            env=self._env({"SCHEDULER_ADDR": frontend, **redis, **settings}),
            ready="Starting event loop" if wait else None,
        )

    def pubsub(self, *, incoming: str, outgoing: str) -> Proc:
        """A publisher device: PUBLISH comes in at one address, subscribers sit on the other."""
        return self.procs.start(
            self.environment.script("emq-pubsub"),
            env=self._env({"PUBLISHER_INCOMING_ADDR": incoming, "PUBLISHER_OUTGOING_ADDR": outgoing}),
            ready="Listening for subscribers",
        )

    def cli(self, admin: str, *commands: str, timeout_s: float = 20.0) -> str:
        """What `emq-cli` prints when `commands` are typed into it."""
        typed = "".join(f"{line}\n" for line in (*commands, "quit")).encode()
        script = self.environment.script("emq-cli")
        cli = self.procs.start(script, "-a", admin, env=self._env({}), stdin=typed)
        cli.wait(timeout_s)
        return cli.output()

    def client(self, code: str, *, broker: str, timeout_s: float = 20.0) -> str:
        """Run a piece of Python as a stock client and return what it prints.

        `code` finds `socket`, an eventmq Sender that is connected to `broker`, the modules `messages` and
        `jobs` of eventmq.client, `stock_tasks`, `replies(n, timeout_s)`, which gives the next n messages from
        the broker as lists of text frames, and `finish()`, which waits until all has been sent: without it
        what was said last may be lost.

        :raises AssertionError: when it ends with an error.
        """
        file = self.folder / f"client_{len(self.procs.started)}.py"
        file.write_text(_CLIENT_PRELUDE + code)
        client = self.procs.start(
            self.environment.python, file, broker, name="stock-client", env=self._env({}, broker=broker)
        )
        status = client.wait(timeout_s)
        assert status == 0, client.output()
        return client.output()

    def _env(
        self,
        settings: Mapping[str, str],
        path: Sequence[str | os.PathLike[str]] = (),
        broker: str | None = None,
    ) -> dict[str, str]:
        env = {f"EVENTMQ_{name}": value for name, value in settings.items()}
        env["EVENTMQ_CONFIG_FILE"] = str(self.folder / "no-such.conf")
        env["PYTHONPATH"] = os.pathsep.join([str(TASKS), *map(os.fspath, path)])
        env["PYTHONWARNINGS"] = "ignore"
        if broker:
            env["EMQ_BROKER_ADDR"] = broker
        return env


_CLIENT_PRELUDE = """\
import sys, time
import zmq
from eventmq.client import jobs, messages
from eventmq.sender import Sender
import stock_tasks

socket = Sender()
socket.connect(sys.argv[1])


def replies(n, timeout_s=10):
    end, found = time.monotonic() + timeout_s, []
    while len(found) < n:
        if not socket.zsocket.poll(max(0, int((end - time.monotonic()) * 1000))):
            raise SystemExit("only %d of %d replies: %s" % (len(found), n, found))
        found.append(socket.recv_multipart())
    return found


def finish():
    socket.zsocket.close(linger=15000)
    socket.zcontext.term()


"""
