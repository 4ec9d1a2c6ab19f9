"""``emq-compat dev``: a broker and a worker in one terminal, the worker started again when a file changes."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import click

from emq_compat.address import Address
from emq_compat.cli.connection import Connection, load_app, one_line_errors
from emq_compat.cli.context import root_context
from emq_compat.cli.own_broker import broker_argv, in_use, listens, own_address
from emq_compat.cli.terminal import Program, Terminal
from emq_compat.errors import OperationalError

__all__ = ["dev"]

_COMMAND = ("-m", "emq_compat")
_BROKER_STARTS_S = 20.0
#: What running tasks may still take when a file has changed, and what a cold end may take.
_WARM_S = 10.0
_COLD_S = 10.0


class _Changes:
    """Watches folders in a thread of its own; ``paths`` fills with the files that have changed."""

    def __init__(self, folders: Sequence[Path], terminal: Terminal) -> None:
        self.paths: set[str] = set()
        self._folders = folders
        self._terminal = terminal
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Begin to watch; returns False where watchfiles is not installed."""
        try:
            import watchfiles  # noqa: PLC0415 - an extra
        except ImportError:
            return False

        def watch() -> None:
            for changes in watchfiles.watch(
                *self._folders, watch_filter=watchfiles.PythonFilter(), stop_event=self._stop
            ):
                self.paths |= {path for _, path in changes}
                self._terminal.wake()

        self._thread = threading.Thread(target=watch, name="watch", daemon=True)
        self._thread.start()
        return True

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "-A", "--app", "app", metavar="APP", help="The app, as Celery finds it: proj, proj.celery, proj:app."
)
@click.option("-b", "--broker", metavar="URL", help="Where to listen. [default: the app's, EMQ_BROKER_ADDR]")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Keep the journal in this folder. [default: in memory]"
)
@click.option(
    "--watch",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Reload when a Python file in here changes; may be repeated. [default: the current folder]",
)
@click.option("--no-reload", is_flag=True, help="Don't watch for changes.")
@click.option("-l", "--loglevel", default="info", show_default=True, help="Of broker and worker.")
@click.argument("worker_options", nargs=-1, type=click.UNPROCESSED, metavar="[WORKER OPTIONS]")
@click.pass_context
def dev(
    context: click.Context,
    app: str | None,
    broker: str | None,
    data: Path | None,
    folders: tuple[Path, ...],
    no_reload: bool,
    loglevel: str,
    worker_options: tuple[str, ...],
) -> None:
    """Run a broker and a worker in this terminal, until Ctrl-C.

    The worker starts again when a Python file changes (with the extra `reload`). Options that are not listed
    here go to the worker: `emq-compat dev -A proj -c 2 -P threads`; with -B it runs a beat, which periodic
    tasks need. The broker keeps all in memory, unless --data DIR is given.
    """
    before = context.find_root().params
    app = app or before.get("app")
    if not app:
        raise click.UsageError("dev needs the app: -A proj")
    with one_line_errors(loglevel):
        load_app(app)
        connection = Connection(app, broker or before.get("broker"))
        address = own_address(connection.url, "dev")
        if listens(address):
            raise in_use(address)
        worker = ["worker", "-A", app, "-b", connection.url, "-l", loglevel, *worker_options]
        with Terminal(root_context()) as terminal:
            session = _Session(terminal, connection.url, worker)
            broker_options = [*broker_argv(address, data, loglevel), "--for-dev"]
            session.run(address, broker_options, None if no_reload else folders or (Path(),))


class _Session:
    """One run of dev: the broker first and last, the worker between, again and again."""

    def __init__(self, terminal: Terminal, url: str, worker_argv: Sequence[str]) -> None:
        self._terminal = terminal
        # So that what tasks publish goes to this broker, too, whatever the app's settings say.
        self._env = {**os.environ, "EMQ_BROKER_ADDR": url, "CELERY_BROKER_URL": url}
        self._worker_argv = worker_argv
        self._worker: Program | None = None
        self._watching = False
        self._again = False
        self._patience = 0.0

    def run(self, address: Address, broker_argv: Sequence[str], folders: Sequence[Path] | None) -> None:
        """Run until an interrupt, then end worker and broker.

        Raises:
            OperationalError: the broker ended by itself, or the worker did and no change can bring it back.
        """
        terminal = self._terminal
        broker = self._start("broker", broker_argv)
        listening = terminal.turn_until(lambda: listens(address), _BROKER_STARTS_S, 0.05)
        if broker.status is not None:
            raise OperationalError(f"the broker ended with {broker.status}")
        if not listening and not terminal.interrupts:
            raise OperationalError(f"the broker did not begin to listen at {address}")
        changes = _Changes(folders or (), terminal)
        if folders is not None:
            self._watching = changes.start()
            if not self._watching:
                terminal.say("changed files are not noticed: pip install 'emq-compat[reload]'")
        try:
            if not terminal.interrupts:
                self._worker = self._start("worker", self._worker_argv)
                self._loop(broker, changes)
        finally:
            changes.stop()
            self._end(broker)

    def _start(self, name: str, argv: Sequence[str]) -> Program:
        return self._terminal.start(name, [sys.executable, *_COMMAND, *argv], self._env)

    def _loop(self, broker: Program, changes: _Changes) -> None:
        terminal = self._terminal
        while not terminal.interrupts:
            left_s = max(0.0, self._patience - time.monotonic()) if self._again else None
            ended = terminal.turn(left_s)
            if broker in ended:
                raise OperationalError(f"the broker ended with {broker.status}")
            if self._worker in ended and self._worker is not None:
                self._worker_ended(self._worker)
            if changes.paths:
                self._reload(changes)
            if self._again and self._worker is not None and time.monotonic() >= self._patience:
                self._press(self._worker)

    def _worker_ended(self, worker: Program) -> None:
        self._worker = None
        if self._again:
            self._again = False
            self._worker = self._start("worker", self._worker_argv)
        elif not self._watching:
            raise OperationalError(f"the worker ended with {worker.status}")
        else:
            self._terminal.say(f"the worker ended with {worker.status}; it starts again when a file changes")

    def _reload(self, changes: _Changes) -> None:
        paths = sorted(changes.paths)
        changes.paths.clear()
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        self._terminal.say(f"changed: {os.path.relpath(paths[0])}{more}")
        if self._worker is None:
            self._worker = self._start("worker", self._worker_argv)
        elif not self._again:
            self._again = True
            self._patience = time.monotonic() + _WARM_S
            self._worker.end()

    def _press(self, worker: Program) -> None:
        """Go one step further with a worker that has not ended in time."""
        if worker.asked_to_end > 1:
            worker.kill()
        worker.end()
        self._patience = time.monotonic() + _COLD_S

    def _stop_worker(self) -> None:
        """End the worker: warm; cold, at a further interrupt; by force, when even that takes too long."""
        worker, terminal = self._worker, self._terminal
        if worker is None or worker.name not in terminal.programs:
            return
        if not worker.asked_to_end:
            worker.end()
        seen, self._patience = terminal.interrupts, float("inf")
        while worker.name in terminal.programs:
            left_s = self._patience - time.monotonic()
            terminal.turn(left_s if left_s < float("inf") else None)
            if terminal.interrupts > seen or time.monotonic() >= self._patience:
                seen = terminal.interrupts
                self._press(worker)

    def _end(self, broker: Program) -> None:
        if self._worker is not None:
            self._terminal.say("ending; once more Ctrl-C cuts running tasks off")
        self._stop_worker()
        broker.end()
        deadline = time.monotonic() + _COLD_S
        while broker.name in self._terminal.programs and time.monotonic() < deadline:
            self._terminal.turn(deadline - time.monotonic())
