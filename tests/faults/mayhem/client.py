"""A client: publishes canvases and waits for them; writes down what it means to publish, what was confirmed,
what it was told. Started again after a kill it goes on with what its ledger says.

    python -m tests.faults.mayhem.client LEDGER SEED STOP
"""

from __future__ import annotations

import heapq
import itertools
import random
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from emq_compat.celery_shim import AsyncResult
from emq_compat.errors import OperationalError
from emq_compat.shim.exceptions import TaskRevokedError
from emq_compat.shim.exceptions import TimeoutError as NotYet
from tests.faults.mayhem import canvases
from tests.faults.mayhem.ledger import Ledger, read
from tests.faults.mayhem.load import app

#: So many results at most are waited for at a time.
MOST_WAITED_FOR = 150
PAUSE_S = 0.02
#: A wait begins again after so long.
PATIENCE_S = 5.0


class Client:
    """One client.

    Args:
        path: its ledger.
        stop: a file; once it is there nothing more is published, and the client ends when it was told all.
    """

    def __init__(self, path: Path, seed: int, stop: Path) -> None:
        self._stop = stop
        lines = read(path)
        self._ledger = Ledger(path)
        self._number = sum(line["what"] == "intend" for line in lines)
        self._chance = random.Random(f"{seed}:{self._number}")
        self._lock = threading.Lock()
        self._all_published = threading.Event()
        self._waited_for: deque[str] = deque(_untold(lines))
        #: What is to be done later, by its time (unix).
        self._later: list[tuple[float, int, canvases.Afterwards]] = []
        self._order = itertools.count()

    def run(self) -> None:
        """Publish and wait, until it is told to stop; then do what is left to do later."""
        waiter = threading.Thread(target=self._wait, daemon=True)
        waiter.start()
        while not self._stop.exists():
            if len(self._waited_for) < MOST_WAITED_FOR:
                self._publish(canvases.made(self._chance))
            self._do_what_is_due()
            time.sleep(self._chance.uniform(0, 2 * PAUSE_S))
        while self._later:
            self._do_what_is_due()
            time.sleep(PAUSE_S)
        self._all_published.set()
        waiter.join()

    def _publish(self, canvas: canvases.Canvas) -> None:
        self._number += 1
        about: dict[str, Any] = {"canvas": self._number, "at": time.time()}
        if canvas.schedule:
            about["schedule"] = canvas.schedule
        self._write("intend", **about, kind=canvas.kind, steps=canvas.steps, last=canvas.last)
        try:
            canvas.publish()
        except OperationalError as exc:
            self._write("unconfirmed", **about, error=f"{type(exc).__name__}: {exc}")
        else:
            self._write("confirmed", **{**about, "at": time.time()})
            self._waited_for.extend(canvas.last)
            if canvas.afterwards is not None:
                at = time.time() + canvas.afterwards.after_s
                heapq.heappush(self._later, (at, next(self._order), canvas.afterwards))

    def _do_what_is_due(self) -> None:
        while self._later and self._later[0][0] <= time.time():
            _, _, afterwards = heapq.heappop(self._later)
            about = {"done": afterwards.what, "id": afterwards.whom}
            self._write("asks", **about, at=time.time())
            try:
                afterwards.do()
            except OperationalError as exc:
                self._write("unheard", **about, at=time.time(), error=f"{type(exc).__name__}: {exc}")
            else:
                self._write("done", **about, at=time.time())

    def _wait(self) -> None:
        while self._waited_for or not self._all_published.is_set():
            try:
                task_id = self._waited_for.popleft()
            except IndexError:
                time.sleep(PAUSE_S)
                continue
            try:
                value = AsyncResult(task_id, app=app).get(timeout=PATIENCE_S)
            except (NotYet, OperationalError):
                self._waited_for.append(task_id)
            except TaskRevokedError as exc:
                self._tell(task_id, state="REVOKED", error=type(exc).__name__, text=str(exc))
            except Exception as exc:  # noqa: BLE001 - what the task, or its loss, came to
                self._tell(task_id, state="FAILURE", error=type(exc).__name__, text=str(exc))
            else:
                self._tell(task_id, state="SUCCESS", value=value)

    def _tell(self, task_id: str, **more: Any) -> None:
        self._write("told", id=task_id, at=time.time(), **more)

    def _write(self, what: str, **more: Any) -> None:
        with self._lock:
            self._ledger.write({"what": what, **more})


def last_known(path: Path) -> list[str]:
    """The ids of all steps that a client has meant to publish."""
    return [task_id for line in read(path) if line["what"] == "intend" for task_id in line["steps"]]


def _untold(lines: list[dict[str, Any]]) -> list[str]:
    told = {line["id"] for line in lines if line["what"] == "told"}
    last = {line["canvas"]: line["last"] for line in lines if line["what"] == "intend"}
    confirmed = [line["canvas"] for line in lines if line["what"] == "confirmed"]
    return [task_id for canvas in confirmed for task_id in last[canvas] if task_id not in told]


if __name__ == "__main__":
    Client(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])).run()
