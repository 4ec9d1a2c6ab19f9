"""Programs started from code: ``app.worker_main(["worker"])``, ``app.start()``, ``app.Worker(…).start()``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.shim.current import given_app

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["Worker", "run_command"]


def run_command(app: Celery, argv: Sequence[str] | None, *, only: str = "") -> None:
    """Run a command line of ``emq-compat`` (of this process, if it is None) for an app that is at hand.

    Raises:
        ValueError: ``only`` isn't its command.
        SystemExit: it has ended.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if only and only not in words:
        raise ValueError(f"the command line must name the command {only!r}; start() runs any")
    # By its name: the command line stands above the shim and knows it, not the other way round.
    token = given_app.set(app)
    try:
        importlib.import_module("emq_compat.cli.main").main(words)
    finally:
        given_app.reset(token)


class Worker:
    """The program ``worker`` of an app; options are those of its command line, without their dashes.

    ``app.Worker`` has its app already.
    """

    app: Celery

    def __init__(self, app: Celery | None = None, **options: Any) -> None:
        if app is not None:
            self.app = app
        self.options = options

    def argv(self) -> list[str]:
        """Return the options as a command line."""
        words = ["worker"]
        for name, value in self.options.items():
            option = f"--{name.replace('_', '-')}"
            if value is True:
                words.append(option)
            elif value not in (None, False):
                joined = ",".join(map(str, value)) if isinstance(value, (list, tuple, set)) else str(value)
                words += [option, joined]
        return words

    def start(self) -> None:
        """Run it; raises SystemExit when it has ended."""
        run_command(self.app, self.argv())
