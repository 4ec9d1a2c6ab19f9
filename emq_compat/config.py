"""What a broker and a worker are told: one frozen value each, made by the command line and passed down.

Names end in their unit. Each attribute names the setting of Celery or eventmq that it mirrors.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from emq_compat.address import Address, endpoint_is_loopback
from emq_compat.errors import ConfigurationError

__all__ = ["BrokerConfig", "WorkerConfig", "default_data_dir"]

#: Jobs at once in the asyncio pool, where no number is given.
ASYNCIO_SLOTS = 100


def default_data_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return this user's data folder: $XDG_DATA_HOME/emq-compat, or ~/.local/share/emq-compat."""
    environ = os.environ if environ is None else environ
    base = environ.get("XDG_DATA_HOME", "")
    # The XDG specification says that a relative path there is to be ignored.
    folder = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "share"
    return folder / "emq-compat"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """What ``emq-compat broker`` is told.

    Attributes:
        frontend: endpoint for clients (eventmq's FRONTEND_ADDR).
        backend: endpoint for workers (BACKEND_ADDR).
        admin: endpoint for ``emq-cli`` and administration (ADMINISTRATIVE_ADDR).
        data: folder of the journal; made with mode 0700.
        memory: keep everything in memory instead; a restart forgets all.
        durability: ``full``: an fsync for each batch, safe against a power cut; ``normal``: safe against a
            killed broker.
        dead_after_s: a worker that is silent for so long is lost (eventmq's HEARTBEAT_TIMEOUT).
        dead_after_gone_s: the same for one whose connection is gone.
        max_redeliveries: how often a message may be lost with its worker before it becomes a dead letter;
            0: without limit.
        queue_limit: waiting messages that a queue may hold; past it publishers are refused; 0: without limit
            (eventmq's HWM, which drops instead).
        stock_timeout_s: what a stock worker held when it left is handed out again after so long.
        result_expires_s: how long results are kept; 0: for ever (Celery's result_expires).
        publish_in, publish_out: endpoints of PUBLISH and of its subscribers; None: not served
            (PUBLISHER_INCOMING_ADDR, PUBLISHER_OUTGOING_ADDR).
        keys_dir: folder of CURVE keys, used on tcp endpoints; None: no encryption.
        insecure: bind to other than loopback addresses without keys.
        max_message_bytes: a larger frame ends its sender's connection.
        log_level: DEBUG, INFO, WARNING, ERROR or CRITICAL.
    """

    frontend: str = "tcp://127.0.0.1:47291"
    backend: str = "tcp://127.0.0.1:47290"
    admin: str = "tcp://127.0.0.1:47293"
    data: Path = field(default_factory=default_data_dir)
    memory: bool = False
    durability: Literal["full", "normal"] = "full"
    dead_after_s: float = 10.0
    dead_after_gone_s: float = 2.0
    max_redeliveries: int = 5
    queue_limit: int = 0
    stock_timeout_s: float = 600.0
    result_expires_s: float = 86_400.0
    publish_in: str | None = None
    publish_out: str | None = None
    keys_dir: Path | None = None
    insecure: bool = False
    max_message_bytes: int = 64 << 20
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        """Refuse what can't work.

        Raises:
            ConfigurationError: names the option and what it may be.
        """
        _one_of("durability", self.durability, ("full", "normal"))
        for name in ("dead_after_s", "dead_after_gone_s", "stock_timeout_s"):
            _positive(name, getattr(self, name))
        for name in ("max_redeliveries", "queue_limit", "result_expires_s"):
            _not_negative(name, getattr(self, name))
        _positive("max_message_bytes", self.max_message_bytes)
        endpoints = self.endpoints()
        for name, endpoint in endpoints.items():
            if not endpoint.startswith(("tcp://", "ipc://", "inproc://")):
                raise ConfigurationError(f"{_option(name)} {endpoint!r} is no endpoint: write tcp://HOST:PORT")
        if len(set(endpoints.values())) < len(endpoints):
            raise ConfigurationError(f"two of these endpoints are the same: {', '.join(endpoints.values())}")
        self._refuse_open_doors(endpoints)

    def endpoints(self) -> dict[str, str]:
        """Return the name → endpoint of every socket to be bound."""
        named = {
            "frontend": self.frontend,
            "backend": self.backend,
            "admin": self.admin,
            "publish_in": self.publish_in,
            "publish_out": self.publish_out,
        }
        return {name: endpoint for name, endpoint in named.items() if endpoint is not None}

    def _refuse_open_doors(self, endpoints: Mapping[str, str]) -> None:
        if self.insecure or self.keys_dir is not None:
            return
        for name, endpoint in endpoints.items():
            if not endpoint_is_loopback(endpoint):
                raise ConfigurationError(
                    f"{_option(name)} {endpoint} is open to other machines: give --keys DIR "
                    "(`emq-compat keys new DIR` makes them), or --insecure on a network that you trust"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What ``emq-compat worker`` and ``jobmanager`` are told.

    Attributes:
        name: unique name, shown in logs and to ``inspect`` (Celery's -n, already expanded); empty: a new id.
        brokers: address of each broker that tasks are taken from; of the first, if several are joined by
            semicolons, in order of failover (broker_url).
        addresses: those of our brokers and stock routers (WORKER_ADDR, WORKER_ADDR_FAILOVER).
        queues: (weight, name) of each queue listened on (Celery's -Q, eventmq's QUEUES); empty: the program's
            default queue.
        exclude_queues: names that are left out (Celery's -X).
        concurrency: jobs at once (worker_concurrency, CONCURRENT_JOBS); 0: the number of this
            process's CPUs, or ASYNCIO_SLOTS.
        autoscale: jobs at once, (at most, at least), instead of concurrency (--autoscale); None: as many as
            that says.
        pool: ``prefork``, ``threads``, ``solo`` or ``asyncio`` (worker_pool).
        time_limit_s, soft_time_limit_s: for jobs that have no limit of their own; None: none
            (task_time_limit, task_soft_time_limit; GLOBAL_TIMEOUT).
        max_tasks_per_child: a child is replaced after so many (worker_max_tasks_per_child, MAX_JOB_COUNT).
        max_memory_per_child_kb: or once it uses more resident memory, in KiB (worker_max_memory_per_child).
        prefetch_multiplier: 1 forbids any reserve (worker_prefetch_multiplier): else a worker reserves short
            jobs, and gives them back, and holds with RabbitMQ so much that expires in its hands.
        soft_shutdown_timeout_s: how long a cold shutdown first waits for running jobs
            (worker_soft_shutdown_timeout).
        enable_soft_shutdown_on_idle: wait even if nothing runs (worker_enable_soft_shutdown_on_idle).
        kill_grace_period_s: how long a warm shutdown waits before it turns cold; None: as long as it takes
            (Celery's worker); eventmq's KILL_GRACE_PERIOD.
        heartbeat_s: how often a stock router hears of this worker (HEARTBEAT_INTERVAL); our broker says
            itself how often it wants to.
        heartbeat_timeout_s: silence after which a stock router is taken to be gone
            (HEARTBEAT_TIMEOUT times HEARTBEAT_LIVENESS); None: never (DISABLE_HEARTBEATS).
        reconnect_s: the longest pause between attempts to connect (RECONNECT_TIMEOUT).
        allow: patterns of importable paths that may run besides registered tasks (``pkg.*``).
        setup_func: ``module.function`` called in each new child (SUBPROCESS_SETUP_FUNC).
        job_entry_func, job_exit_func: ``module.function`` called before and after each job
            (JOB_ENTRY_FUNC, JOB_EXIT_FUNC).
        log_level: as BrokerConfig's.
    """

    name: str = ""
    brokers: tuple[str, ...] = ()
    addresses: tuple[Address, ...] = ()
    queues: tuple[tuple[int, str], ...] = ()
    exclude_queues: frozenset[str] = frozenset()
    concurrency: int = 0
    autoscale: tuple[int, int] | None = None
    pool: str = "prefork"
    time_limit_s: float | None = None
    soft_time_limit_s: float | None = None
    max_tasks_per_child: int | None = None
    max_memory_per_child_kb: int | None = None
    prefetch_multiplier: int = 4
    soft_shutdown_timeout_s: float = 0.0
    enable_soft_shutdown_on_idle: bool = False
    kill_grace_period_s: float | None = None
    heartbeat_s: float = 3.0
    heartbeat_timeout_s: float | None = 15.0
    reconnect_s: float = 5.0
    allow: tuple[str, ...] = ()
    setup_func: str = ""
    job_entry_func: str = ""
    job_exit_func: str = ""
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        """Refuse what can't work; raises ConfigurationError naming the option and what it may be."""
        _one_of("pool", self.pool, ("prefork", "threads", "solo", "asyncio"))
        _not_negative("concurrency", self.concurrency)
        if self.autoscale is not None and self.pool == "solo":
            raise ConfigurationError("--autoscale: the solo pool runs one task at a time")
        _not_negative("prefetch_multiplier", self.prefetch_multiplier)
        _not_negative("soft_shutdown_timeout_s", self.soft_shutdown_timeout_s)
        for name in (
            "time_limit_s",
            "soft_time_limit_s",
            "max_tasks_per_child",
            "max_memory_per_child_kb",
            "heartbeat_s",
            "heartbeat_timeout_s",
            "reconnect_s",
        ):
            value = getattr(self, name)
            if value is not None:
                _positive(name, value)
        if self.kill_grace_period_s is not None:
            _not_negative("kill_grace_period_s", self.kill_grace_period_s)
        for weight, queue in self.queues:
            if weight < 0 or not queue:
                raise ConfigurationError(f"queue {queue!r} of weight {weight}: it needs a name and no minus")

    def listens_to(self, default: str) -> tuple[tuple[int, str], ...]:
        """Return the queues less the excluded ones; ``default`` where none is named (of weight 10)."""
        queues = self.queues or ((10, default),)
        return tuple(queue for queue in queues if queue[1] not in self.exclude_queues)

    @property
    def slots(self) -> int:
        """``concurrency``, or the number of CPUs that this process may use; asyncio: 100, solo: always 1.

        With ``autoscale`` its lower limit, with which a worker starts.
        """
        if self.pool == "solo":
            return 1
        if self.autoscale is not None:
            return self.autoscale[1]
        if self.concurrency:
            return self.concurrency
        if self.pool == "asyncio":
            return ASYNCIO_SLOTS
        try:
            return len(os.sched_getaffinity(0))
        except AttributeError:  # not on macOS
            return os.cpu_count() or 1


def _option(name: str) -> str:
    return "--" + name.removesuffix("_s").replace("_", "-")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigurationError(f"{_option(name)} {value!r} is unknown; known: {', '.join(known)}")


def _positive(name: str, value: float) -> None:
    if not value > 0 or math.isinf(value):
        raise ConfigurationError(f"{_option(name)} is {value:g}; it must be greater than 0")


def _not_negative(name: str, value: float) -> None:
    if not value >= 0 or math.isinf(value):
        raise ConfigurationError(f"{_option(name)} is {value:g}; it must not be negative")
