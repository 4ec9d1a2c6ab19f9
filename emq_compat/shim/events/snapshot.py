"""Cameras: what takes a picture of a cluster's state every so often (``celery.events.snapshot``)."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from emq_compat.rate import TokenBucket
from emq_compat.shim import current
from emq_compat.shim.dispatch import Signal
from emq_compat.shim.surface.bootsteps import Timer
from emq_compat.shim.surface.imports import instantiate
from emq_compat.shim.surface.platforms import create_pidlock
from emq_compat.shim.surface.times import rate

if TYPE_CHECKING:
    from emq_compat.shim.events.state import State

__all__ = ["Polaroid", "evcam"]

logger = logging.getLogger("celery.evcam")


class Polaroid:
    """The base of cameras: define ``on_shutter(state)``, and ``on_cleanup()`` where it is needed.

    Args:
        state: the cluster's state.
        freq: seconds between two pictures.
        maxrate: at most so many (``10/m``); those beyond are not taken.
        cleanup_freq: seconds between two clean-ups.
        timer: makes the calls (``call_repeatedly``); None: a thread of its own.
        app: the app.

    Attributes:
        clear_after: forget the state after each picture, but for what still runs.
        shutter_signal, cleanup_signal: are sent, by the state, before ``on_shutter`` and ``on_cleanup``.
    """

    timer: Any = None
    shutter_signal = Signal(name="shutter_signal", providing_args={"state"})
    cleanup_signal = Signal(name="cleanup_signal")
    clear_after = False

    def __init__(
        self,
        state: State,
        freq: float = 1.0,
        maxrate: float | str | None = None,
        cleanup_freq: float = 3600.0,
        timer: Any = None,
        app: Any = None,
    ) -> None:
        self.app = app or current.get_app()
        self.state = state
        self.freq = freq
        self.cleanup_freq = cleanup_freq
        self.logger = logger
        per_second = rate(maxrate) if maxrate else 0.0
        self.maxrate = TokenBucket(1 / per_second) if per_second else None
        self._own_timer: Timer | None = None
        self.timer = timer or self.timer
        self._calls: list[Any] = []

    def install(self) -> None:
        """Begin to take pictures."""
        if self.timer is None:
            self.timer = self._own_timer = Timer()
            self._own_timer.begin()
        self._calls = [
            self.timer.call_repeatedly(self.freq, self.capture),
            self.timer.call_repeatedly(self.cleanup_freq, self.cleanup),
        ]

    def cancel(self) -> None:
        """Take a last picture, and no more."""
        for entry in self._calls:
            entry.cancel()
        if self._own_timer is not None:
            self._own_timer.stop()
            self.timer = self._own_timer = None
        if self._calls:
            self._calls.clear()
            self.capture()

    def on_shutter(self, state: State) -> None:
        """Take a picture; no event is taken in meanwhile."""

    def on_cleanup(self) -> None:
        """Throw old pictures away."""

    def shutter(self) -> None:
        """Take a picture, unless there were too many lately."""
        now = time.monotonic()
        if self.maxrate is None or not self.maxrate.wait_s(now):
            if self.maxrate is not None:
                self.maxrate.take(now)
            logger.debug("Shutter: %s", self.state)
            self.shutter_signal.send(sender=self.state)
            self.on_shutter(self.state)

    def capture(self) -> None:
        """Take a picture of a state that stands still."""
        self.state.freeze_while(self.shutter, clear_after=self.clear_after)

    def cleanup(self) -> None:
        """Throw old pictures away."""
        logger.debug("Cleanup: Running...")
        self.cleanup_signal.send(sender=self.state)
        self.on_cleanup()

    def __enter__(self) -> Polaroid:
        self.install()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cancel()


def evcam(
    camera: Any,
    freq: float = 1.0,
    maxrate: float | str | None = None,
    loglevel: int | str = 0,
    logfile: str | None = None,
    pidfile: str | None = None,
    timer: Any = None,
    app: Any = None,
    **kwargs: Any,
) -> None:
    """Run a camera until Ctrl-C.

    Args:
        camera: a subclass of Polaroid, or its dotted path.
        freq, maxrate, timer: see Polaroid.
        loglevel, logfile: of this process's log.
        pidfile: is held meanwhile.

    Raises:
        SystemExit: it was ended, or another process that lives holds the pid file.
    """
    app = app or current.get_app()
    if pidfile:
        create_pidlock(pidfile)
    app.log.setup_logging_subsystem(loglevel, logfile)
    state = app.events.State()
    with (
        instantiate(camera, state, app=app, freq=freq, maxrate=maxrate, timer=timer),
        app.connection_for_read() as connection,
    ):
        print(f"-> evcam: Taking snapshots with {camera} (every {freq} secs.)", flush=True)  # noqa: T201
        try:
            app.events.Receiver(connection, handlers={"*": state.event}).capture(limit=None)
        except KeyboardInterrupt:
            raise SystemExit from None
