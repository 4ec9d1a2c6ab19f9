"""The tree of a workflow, of a broker that answers from a table."""

from __future__ import annotations

import json
from typing import Any

import pytest

from emq_compat.message import Job
from emq_compat.monitor.dashboard.workflow import workflow
from tests.monitor.dashboard.fake import FakeBroker

pytestmark = pytest.mark.unit


_RUNS = {"queue": "q", "worker": "w", "for_s": 0.0, "attempt": 1}


class Traces(FakeBroker):
    """Knows any number of tasks, from ``0`` on, each followed by the next: its child, or its callback."""

    def __init__(self, *, ended: bool) -> None:
        super().__init__()
        self._ended = ended

    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any:
        self.asked.append((verb, arguments))
        return {task_id: self._told(int(task_id) + 1) for task_id in arguments["ids"]}

    def _told(self, following: int) -> dict[str, Any]:
        if self._ended:
            reply = {"name": "t", "children": [[[str(following), None], None]]}
            return {"where": "unknown", "state": "SUCCESS", "reply": json.dumps(reply)}
        callback = {"task": "t", "options": {"task_id": str(following)}}
        job = Job(path="m", callable="f", celery={"callbacks": [callback]})
        # It has ended, and its consumer has not yet acknowledged it.
        return {"where": "running", "state": "SUCCESS", "payload": job.encode().decode(), **_RUNS}


@pytest.mark.parametrize("ended", [True, False])
def test_one_that_is_deep_is_cut(ended: bool) -> None:
    """Tasks of which each leads to the next are shown as far as a tree can be made and told."""
    found = workflow(Traces(ended=ended), "0", show_args=False)
    assert found["cut"] is True
    depth, node = 0, found["tree"]
    while node["children"]:
        [node] = node["children"]
        depth += 1
    assert 200 <= depth < 210
    assert json.loads(json.dumps(found)) == found
