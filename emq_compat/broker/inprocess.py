"""Brokers in this very process, for tests: what ``memory://`` means.

It is the broker as it always is, in a thread, with its journal in memory and its sockets in a folder of this
user's alone; so nothing about it behaves differently, and processes that are forked from this one reach it,
too. It is started by the first connection to it (``Address.prepare``) and ends with the process, or when a
test ends it: whatever it held is then forgotten.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import shutil
import threading
import time

from emq_compat.broker.server import Server
from emq_compat.config import BrokerConfig
from emq_compat.errors import OperationalError
from emq_compat.wire.listening import is_listened_at

__all__ = ["InProcessBroker", "begin", "end", "running"]

logger = logging.getLogger(__name__)

#: Longer than elsewhere: where a debugger or a test holds this process up, it holds up the workers, too.
_DEAD_AFTER_S = 60.0


class InProcessBroker:
    """A broker that runs in a thread.

    Args:
        folder: for its sockets; made with mode 0700, and removed at the end.

    Raises:
        OperationalError: another one listens there, or the folder can't be made.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError as exc:
            raise OperationalError(f"the folder {folder} of memory:// can't be made: {exc.strerror}") from exc
        self.server = Server(
            BrokerConfig(
                frontend=f"ipc://{folder}/client.sock",
                backend=f"ipc://{folder}/worker.sock",
                admin=f"ipc://{folder}/admin.sock",
                memory=True,
                dead_after_s=_DEAD_AFTER_S,
            )
        )
        self._thread = threading.Thread(target=self._run, name="emq-memory-broker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.server.run()
        except Exception:
            logger.exception("the broker of memory:// has ended")

    @property
    def alive(self) -> bool:
        """Whether it serves."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End it, and forget all that it holds."""
        self.server.stop()
        self._thread.join()
        self.server.close()
        shutil.rmtree(self.folder, ignore_errors=True)


#: Folders that are younger may belong to a broker that is being started.
_STALE_S = 60.0

_lock = threading.RLock()
#: Whether this process has looked for what others have left.
_swept = False
#: Folder → the broker that this process runs there.
_running: dict[str, InProcessBroker] = {}
#: Those of the process this one was forked from: their threads don't exist here, and they stay untouched.
_foreign: list[InProcessBroker] = []


def begin(folder: str) -> None:
    """Have a broker listen in ``folder``: one that does so already, in whichever process, or a new one here.

    Raises:
        OperationalError: it can't be started.
    """
    broker = _running.get(folder)
    if broker is not None and broker.alive:
        return
    global _swept
    with _lock:
        broker = _running.get(folder)
        if broker is not None and broker.alive:
            return
        if not _swept:
            _swept = True
            _sweep(os.path.dirname(folder))
        if broker is not None:
            end(folder)
        elif is_listened_at(os.path.join(folder, "client.sock")):
            return
        _running[folder] = InProcessBroker(folder)
        if len(_running) == 1:
            atexit.unregister(_end_all)
            atexit.register(_end_all)


def _sweep(parent: str) -> None:
    """Remove what killed processes of this user have left: folders in which nobody listens any more."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(parent):
            if re.fullmatch(r"emq-memory-\d+-[0-9a-f]{12}(-.*)?", entry.name) is None:
                continue
            with contextlib.suppress(OSError):
                about = entry.stat(follow_symlinks=False)
                # One that is just being made has nobody who listens yet.
                old = time.time() - about.st_mtime > _STALE_S
                mine = about.st_uid == os.getuid() and entry.is_dir(follow_symlinks=False)
                if old and mine and not is_listened_at(os.path.join(entry.path, "client.sock")):
                    shutil.rmtree(entry.path, ignore_errors=True)


def running(folder: str) -> InProcessBroker | None:
    """Return the broker that this process runs there; None: it runs none."""
    return _running.get(folder)


def end(folder: str) -> None:
    """End the broker that this process runs there, if it does."""
    with _lock:
        broker = _running.pop(folder, None)
        if broker is not None:
            broker.stop()


def _end_all() -> None:
    for folder in list(_running):
        with contextlib.suppress(Exception):  # the process ends: there's nobody left to tell
            end(folder)


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    _foreign.extend(_running.values())
    _running.clear()


os.register_at_fork(after_in_child=_after_fork)
