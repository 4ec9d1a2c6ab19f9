"""What follows from an end without a word of its task, done by Celery's own worker.

Our workers get an epilogue as it is (docs/protocol.md). A consumer of kombu's gets it as a message of the
task ``celery.emq_conclude``, which each app in a process that uses our transport has.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from emq_compat.celery_message import CeleryMessage
from emq_compat.client import client_for
from emq_compat.errors import MessageError
from emq_compat.ids import new_id
from emq_compat.message import Delivery, Headers

__all__ = ["CONCLUDE_TASK", "add_conclude_task", "epilogue_message", "prepare_apps"]

CONCLUDE_TASK: Final = "celery.emq_conclude"


def epilogue_message(queue: str, headers: Headers, payload: bytes) -> CeleryMessage:
    """Return an epilogue as a message of the task that concludes.

    Raises:
        MessageError: it is none.
    """
    try:
        kind, options, reply = json.loads(payload)
        name = headers.task or options["celery"]["task"]
    except (ValueError, TypeError, LookupError, RecursionError) as exc:
        raise MessageError('the payload is not ["epilogue", {…}, {…}]') from exc
    if kind != "epilogue":
        raise MessageError('the payload is not ["epilogue", {…}, {…}]')
    embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    task_id = new_id()
    return CeleryMessage(
        body=json.dumps([[queue, name, options, reply], {}, embedded]).encode(),
        content_type="application/json",
        content_encoding="utf-8",
        headers={
            "lang": "py",
            "task": CONCLUDE_TASK,
            "id": task_id,
            "root_id": task_id,
            "parent_id": None,
            "group": None,
            "retries": headers.retries,
            "eta": None,
            "expires": None,
            "timelimit": [None, None],
            "ignore_result": True,
            "argsrepr": f"({name!r}, …)",
            "kwargsrepr": "{}",
        },
        properties={"correlation_id": task_id, "reply_to": "", "delivery_mode": 2},
    )


def prepare_apps() -> None:
    """Give each app of this process the task that concludes; without Celery there is none."""
    state = sys.modules.get("celery._state")
    for app in list(getattr(state, "_apps", ())):
        add_conclude_task(app)


def add_conclude_task(app: Any) -> None:
    """Register the task, if it isn't there."""
    if CONCLUDE_TASK in app._tasks:
        return

    @app.task(  # type: ignore[untyped-decorator]
        name=CONCLUDE_TASK, bind=True, shared=False, lazy=False, ignore_result=True, typing=False
    )
    def emq_conclude(self: Any, queue: str, name: str, options: Any, reply: Any) -> None:
        from emq_compat.genuine.tracing import Tracing  # noqa: PLC0415 - workers only

        address = getattr(self.app.backend, "address", None)
        tracing = Tracing(self.app, self.request.hostname or "", captures=address is not None)
        payload = json.dumps(["epilogue", options, reply]).encode()
        headers = Headers(task=name, concludes=True, retries=self.request.retries or 0)
        delivery = Delivery(msgid=new_id(), queue=queue, headers=headers, payload=payload)
        concluded = tracing.conclude(delivery)
        if address is not None and concluded.follow_ups:
            client_for(address).publish_all(concluded.follow_ups)
