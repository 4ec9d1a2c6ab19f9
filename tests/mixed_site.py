"""A project on one of three brokers, its app genuine Celery's or the shim's, Celery's workers beside ours.

    @pytest.mark.parametrize("mixed", combinations(short=("genuine-redis",)), indirect=True)
    def test_a_task_runs(mixed: MixedSite) -> None:
        mixed.start_worker("-c", "1")
        assert "x" == mixed.ask("ping.delay('x').get(timeout=10)")
        assert 1 == mixed.count("ping x")

The fixture is ``mixed`` of tests/cases/conftest.py. Genuine Celery isn't in the tests' own environment: the
project is imported by a process of the app's environment (`driver`), which evaluates what a test asks of it.
"""

from __future__ import annotations

import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from kombu import Connection as KombuConnection
from kombu import Exchange, Queue

from tests.broker_process import Broker
from tests.environments import genuine_celery
from tests.processes import Proc, Procs, wait_until
from tests.services import redis
from tests.site import PROJECT

APPS = ("genuine", "shim")
BROKERS = ("emq", "amqp", "redis")
NAME = "mixedproj"

SETTINGS = """
app.conf.update({settings!r})
"""

SCRIPT = """
if __name__ == "__main__":
    try:
        print(ping.name, ping.delay("script").get(timeout=30))
    except Exception as exc:
        print(ping.name, type(exc).__name__)
"""

#: Evaluates for its one caller; each thread of the project's process but this one is the app's own.
DRIVER = """
import importlib, sys
from multiprocessing.connection import Listener

sys.path.insert(0, ".")
module = importlib.import_module({name!r})
space = vars(module)
with Listener("driver.sock", "AF_UNIX") as listener:
    print("listening", flush=True)
    with listener.accept() as caller:
        while True:
            try:
                code, given = caller.recv()
            except EOFError:
                break
            try:
                space.update(given)
                try:
                    code = compile(code, "<asked>", "eval")
                except SyntaxError:
                    code = compile(code, "<asked>", "exec")
                answer = True, eval(code, space)
            except BaseException as error:
                answer = False, (type(error).__name__, str(error))
            caller.send(answer)
"""


class Raised(Exception):
    """What was asked of the driver raised: `name` is the exception's class, the text its message."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


def combinations(
    apps: Sequence[str] = APPS, brokers: Sequence[str] = BROKERS, short: Sequence[str] = ()
) -> list[ParameterSet]:
    """Parameters of the fixture ``mixed``: ``genuine-redis`` …; those that aren't `short` are marked long."""
    ids = [f"{app}-{broker}" for app in apps for broker in brokers]
    unknown = set(short) - set(ids)
    assert not unknown, unknown
    marks = {name: () if name in short else (pytest.mark.long,) for name in ids}
    return [pytest.param(name, id=name, marks=marks[name]) for name in ids]


class MixedSite:
    """One project folder with its broker, workers and driver.

    Attributes:
        app: ``genuine`` or ``shim``.
        kind: the broker: ``emq``, ``amqp`` or ``redis``.
        url, backend: the broker's and the result backend's addresses, which the project's app names. On amqp
            and redis results are kept in a Redis of the site's own, which on redis is the broker, too.
        folder: holds the project's module and what the processes write.
    """

    def __init__(
        self,
        app: str,
        kind: str,
        *,
        folder: Path,
        procs: Procs,
        free_port: Callable[[], int],
        amqp_url: Callable[[], str],
    ) -> None:
        self.app, self.kind, self.folder, self.procs = app, kind, folder, procs
        self.bin = genuine_celery() if app == "genuine" else Path(sys.executable).parent
        self.workers: list[Proc] = []
        self.broker: Broker | None = None
        self.redis: Proc | None = None
        self._redis_port = free_port()
        self._settings: dict[str, Any] = {}
        # RabbitMQ is shared with other tests: this site's queues and exchanges have names of their own.
        self._prefix = ""
        if kind == "emq":
            self.broker = Broker(procs, free_port, folder / "data")
            self.url = self.backend = self.broker.url
        elif kind == "redis":
            self.url = f"redis://127.0.0.1:{self._redis_port}/0"
            self.backend = f"redis://127.0.0.1:{self._redis_port}/1"
        else:
            self.url = amqp_url()
            self.backend = f"redis://127.0.0.1:{self._redis_port}/1"
            self._prefix = f"mixed-{uuid.uuid4().hex[:8]}-"
            self._settings.update(
                control_exchange=f"{self._prefix}pidbox", event_exchange=f"{self._prefix}celeryev"
            )
        self._queues = {self.queue("celery")}
        self._settings["task_default_queue"] = self.queue("celery")
        self._runs = folder / "runs"
        self._runs.touch()
        self._driver: Connection | None = None
        self._drivers = 0
        self.write_project()

    # The project.

    def queue(self, name: str) -> str:
        """The name that this site gives a queue: on RabbitMQ, which tests share, one of its own."""
        queue = f"{self._prefix}{name}"
        if hasattr(self, "_queues"):
            self._queues.add(queue)
        return queue

    def write_project(self, more: str = "", **settings: Any) -> None:
        """Write the project's module: the tasks of tests/site.py, these settings, the text ``more``."""
        text = PROJECT.format(name=NAME, url=self.url, runs=str(self._runs))
        if self.app == "genuine":
            text = text.replace("from emq_compat.celery_shim import", "from celery import")
        given = {"result_backend": self.backend, **self._settings, **settings}
        (self.folder / f"{NAME}.py").write_text(text + SETTINGS.format(settings=given) + more)

    def ask(self, code: str, timeout_s: float = 60.0, **given: Any) -> Any:
        """Evaluate (or run) Python text in the driver, where the project's names are, and these variables.

        Names last from one call to the next: ``ask("r = ping.delay(1)")``, then ``ask("r.get(timeout=5)")``.

        :raises Raised: it raised. Values must be pickled: plain ones.
        """
        driver = self._driver or self.start_driver()
        driver.send((code, given))
        assert driver.poll(timeout_s), f"no answer within {timeout_s} s: {code}"
        worked, value = driver.recv()
        if not worked:
            raise Raised(*value)
        return value

    def start_driver(self) -> Connection:
        """Start the process that `ask` asks (again, with the project as it is now)."""
        if self._driver is not None:
            self._driver.close()
        (self.folder / "driver.sock").unlink(missing_ok=True)
        self._drivers += 1
        (self.folder / "driver.py").write_text(DRIVER.format(name=NAME))
        self.procs.start(
            self.bin / "python", "driver.py",
            name="driver", cwd=self.folder, ready="listening", timeout_s=60,
        )  # fmt: skip
        self._driver = Client(str(self.folder / "driver.sock"), "AF_UNIX")
        return self._driver

    def run_as_script(self, *, named: bool) -> str:
        """Run a copy of the project's module as a program that calls ``ping``; returns what it printed.

        ``named``: its app has the module's name, else none. It prints the task's name, and the result's.
        """
        text = (self.folder / f"{NAME}.py").read_text()
        path = self.folder / f"script_{named}.py"
        path.write_text((text if named else text.replace(f"Celery({NAME!r}, ", "Celery(")) + SCRIPT)
        program = self.procs.start(self.bin / "python", path.name, cwd=self.folder)
        assert 0 == program.wait(60), program.tail()
        return program.output().strip().splitlines()[-1]

    def runs(self) -> list[str]:
        """The lines that tasks have noted: ``ping MARK``, ``start MARK PID``, ``end MARK``."""
        return self._runs.read_text().splitlines()

    def count(self, beginning: str) -> int:
        """How many of these lines begin so (whole words)."""
        return sum(f"{line} ".startswith(f"{beginning} ") for line in self.runs())

    def wait_runs(self, beginning: str, count: int = 1, timeout_s: float = 30.0) -> None:
        """Wait until so many lines begin so."""
        wait_until(
            lambda: self.count(beginning) >= count, timeout_s, what=f"{count} × {beginning!r} in the runs"
        )

    # Processes.

    def start_broker(self, *options: str) -> None:
        """Start our broker, or Redis, again (after `stop_broker`); Redis then has nothing any more."""
        if self.broker is not None:
            self.broker.start(*options)
        else:
            self.start_redis()

    def stop_broker(self) -> None:
        """Kill our broker, or Redis. RabbitMQ is shared: put a Proxy in front of it."""
        proc = self.broker.proc if self.broker else self.redis
        assert self.kind != "amqp"
        assert proc is not None
        proc.kill()

    def start_redis(self) -> None:
        """Start the site's Redis."""
        program = redis.program()
        if program is None:
            pytest.skip("redis-server isn't installed: run `make services`")
        self.redis = self.procs.start(
            program, "--bind", "127.0.0.1", "--port", str(self._redis_port),
            "--save", "", "--appendonly", "no",
            name="redis", ready="Ready to accept connections",
        )  # fmt: skip

    def start_worker(self, *options: str, ready: str | None = "is ready", **more: Any) -> Proc:
        """Start a worker of ours (``-c 2``, this site's queue and a name of its own unless told)."""
        argv = (self.bin / "emq-compat", "worker", "-A", NAME, *self._usual(options))
        return self._worker(*argv, ready=ready, **more)

    def start_celery_worker(self, *options: str, **more: Any) -> Proc:
        """Start genuine Celery's own worker."""
        assert self.app == "genuine"
        more.setdefault("ready", " ready.")
        return self._worker(self.bin / "celery", "-A", NAME, "worker", *self._usual(options), **more)

    def _usual(self, options: Sequence[str]) -> list[str]:
        usual = {"-c": "2", "-n": f"w{len(self.workers)}@%h", "-l": "info"}
        missing = [item for item in usual.items() if item[0] not in options]
        return [*options, *(part for item in missing for part in item)]

    def _worker(self, *argv: str | Path, **more: Any) -> Proc:
        name = f"worker{len(self.workers)}"
        worker = self.procs.start(*argv, cwd=self.folder, timeout_s=60, name=name, **more)
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        """End driver and workers, and what was made on a broker that tests share."""
        if self._driver is not None:
            self._driver.close()
        living = [worker for worker in self.workers if worker.alive()]
        for worker in living:
            worker.send_signal(signal.SIGTERM)
        try:
            wait_until(lambda: not any(worker.alive() for worker in living), timeout_s=3)
        except TimeoutError:
            for worker in living:
                with suppress(ProcessLookupError):  # it has just ended
                    worker.send_signal_to_group(signal.SIGKILL)
        if self.broker is not None:
            self.broker.client.close()
        if self.kind == "amqp":
            self._clear()

    def _clear(self) -> None:
        with KombuConnection(self.url) as connection:
            for name in self._queues:
                Queue(name, channel=connection.default_channel).delete()
                Exchange(name, channel=connection.default_channel).delete()
            for name in ("pidbox.pidbox", "reply.pidbox.pidbox", "celeryev"):
                Exchange(f"{self._prefix}{name}", channel=connection.default_channel).delete()


@contextmanager
def open_mixed_site(
    name: str, folder: Path, procs: Procs, free_port: Callable[[], int], amqp_url: Callable[[], str]
) -> Iterator[MixedSite]:
    """A site in a folder of its own, its broker started: `name` is ``APP-BROKER``."""
    app, _, kind = name.partition("-")
    folder = folder / "mixed"
    folder.mkdir()
    made = MixedSite(app, kind, folder=folder, procs=procs, free_port=free_port, amqp_url=amqp_url)
    try:
        made.start_broker()
        yield made
    finally:
        made.close()
