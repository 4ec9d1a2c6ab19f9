"""What the broker knows of a worker: its queues, its credit, what it holds, when it was last heard."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from emq_compat.broker.queue import MessageQueue
from emq_compat.broker.records import InFlight
from emq_compat.broker.stock import SILENCE_S
from emq_compat.broker.tiers import Tier
from emq_compat.rate import TokenBucket

__all__ = ["Worker"]


class Worker:
    """One worker, present (it has said INFORM to this broker process) or only known by what it held before.

    Attributes:
        stock: it runs stock eventmq: one READY a message, no capabilities, no NACK.
        consumer: it is a consumer of kombu's, see Capabilities; or (``fetches``) a client that fetches single
            messages, which listens on no queue and is there as long as its connection.
        slots: how many it runs at once; 0 for stock workers (unknown).
        credit: how many more it has asked for.
        served: the number of the last hand-out that it got, of all hand-outs of this broker process.
        turn_began: monotonic seconds at which its last turn began (askers.py).
        tiers: its queues by weight, heaviest first.
        listened: all its queues.
        tasks: registered task names and their flags, None: it runs any path.
        paces: task name → how often it may have one, of the tasks that it limits.
        heard, gone: monotonic seconds of its last message, of the loss of its connection (None: it is up).
        not_begun: msgids that its last HEARTBEAT listed as held and not begun.
        namespace: of the commands of Celery's remote control that it runs; empty: none.
        leaving: it has said KBYE (stock workers go on answering after that).
    """

    __slots__ = (
        "consumer",
        "credit",
        "fetches",
        "finished",
        "gone",
        "heard",
        "hostname",
        "identity",
        "in_flight",
        "leaving",
        "listened",
        "namespace",
        "not_begun",
        "paces",
        "pid",
        "present",
        "served",
        "slots",
        "stock",
        "tasks",
        "tiers",
        "turn_began",
        "weight",
        "weighted",
    )

    def __init__(self, identity: bytes, now_mono: float, *, present: bool, stock: bool = False) -> None:
        self.identity = identity
        self.present = present
        self.stock = stock
        self.consumer = False
        self.fetches = False
        self.slots = 0
        self.credit = 0
        self.served = 0
        self.turn_began = -math.inf
        self.tiers: list[Tier] = []
        self.listened: frozenset[MessageQueue] = frozenset()
        self.weight = 0
        #: its queues as it named them, (weight, queue).
        self.weighted: list[tuple[int, MessageQueue]] = []
        #: hand-outs that it ended.
        self.finished = 0
        self.tasks: Mapping[str, str] | None = None
        self.paces: dict[str, TokenBucket] = {}
        self.in_flight: dict[str, InFlight] = {}
        self.heard = now_mono
        self.gone: float | None = None
        self.not_begun: frozenset[str] = frozenset()
        self.leaving = False
        self.pid = 0
        self.hostname = ""
        self.namespace = ""

    @property
    def name(self) -> str:
        """Its identity as text, for people."""
        return self.identity.decode("utf-8", "replace")

    def listen(self, queues: Sequence[tuple[int, MessageQueue]]) -> None:
        """Set its queues, as (weight, queue)."""
        self.weighted = list(queues)
        tiers: dict[int, list[MessageQueue]] = {}
        for weight, queue in queues:
            tiers.setdefault(weight, []).append(queue)
        self.listened = frozenset(queue for _, queue in queues)
        self.tiers = [Tier(tiers[weight]) for weight in sorted(tiers, reverse=True)]
        self.weight = max(tiers, default=0)

    @property
    def node(self) -> str:
        """Its node name: its identity without the part that is new at each start."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def queues(self) -> list[MessageQueue]:
        """All its queues."""
        return [queue for tier in self.tiers for queue in tier.queues]

    def has(self, task: str) -> bool:
        """Whether it can run a task of this name ('' is a plain eventmq job: any worker may get it)."""
        return self.tasks is None or not task or task in self.tasks

    def may_have(self, task: str, now_mono: float) -> bool:
        """Whether it has this task, and its rate limit for it allows one now."""
        if not self.has(task):
            return False
        pace = self.paces.get(task) if self.paces else None
        return pace is None or pace.next_at <= now_mono

    def late(self, task: str) -> bool:
        """Whether it acknowledges this task late, so that the task may be handed out again if it is lost."""
        return self.stock or self.consumer or (self.tasks is not None and "l" in self.tasks.get(task, ""))

    def hears_ends(self, task: str) -> bool:
        """Whether it wants to know of tasks of this name that the broker ends by itself."""
        return self.tasks is not None and "e" in self.tasks.get(task, "")

    @property
    def idle_slots(self) -> int:
        """How many messages would be begun at once, as far as the broker can tell."""
        if self.stock or self.consumer:
            return self.credit
        return min(self.credit, self.slots - len(self.in_flight))

    def lost_at(self, dead_after_s: float, gone_after_s: float) -> float:
        """Return the monotonic time at which it counts as lost unless it is heard before."""
        if self.fetches:
            deadline = math.inf
        else:
            deadline = self.heard + (max(dead_after_s, SILENCE_S) if self.stock else dead_after_s)
        if self.gone is not None:
            deadline = min(deadline, max(self.gone, self.heard) + gone_after_s)
        return deadline
