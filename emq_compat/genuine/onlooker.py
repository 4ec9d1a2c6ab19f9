"""Sends Celery's signals of a worker's parent for a genuine app."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import exceptions, signals
from celery.app.task import Context
from kombu.serialization import prepare_accept_content

from emq_compat.genuine import panel
from emq_compat.genuine.tracing import exception_of, request_of, unreadable
from emq_compat.message import Delivery, Job
from emq_compat.shim.panel_registry import State
from emq_compat.shim.worker import Announcer

__all__ = ["GenuineAnnouncer"]


class GenuineAnnouncer(Announcer):
    """Sends celery.signals; its app is an AppView."""

    signals = signals
    exceptions = exceptions

    def run_command(self, state: State, verb: str, arguments: Mapping[str, Any]) -> Any:
        """Run a command of remote control: Celery's, ours, or the project's own."""
        return panel.run(state, verb, arguments)

    def _request(self, task: str, job: Job, delivery: Delivery) -> Any:
        app, hostname = self._app, self._app.hostname
        try:
            request = request_of(job, delivery, hostname, prepare_accept_content(app.conf.accept_content))
        except Exception:  # noqa: BLE001 - whatever a serializer raises; the run itself tells of it
            request = unreadable(job, delivery, hostname)
        return Context(request, called_directly=False)

    def _exception(self, reply: Mapping[str, Any]) -> BaseException:
        return exception_of(reply.get("error"), reply)

    def _info(self, exc: BaseException) -> Any:
        return ExceptionInfo(sys.exc_info())
