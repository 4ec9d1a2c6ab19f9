"""Which upstreams a worker's brokers come to: each ``-b`` is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from emq_compat.address import Address, is_kombu
from emq_compat.errors import ConfigurationError
from emq_compat.upstream.base import Upstream
from emq_compat.upstream.kombu_control import ControlSettings

__all__ = ["control_settings", "kombu_settings", "purge", "shown", "upstreams_for"]

#: Among broker_transport_options: KombuSettings.dead_after_s. Kombu takes no notice of what it doesn't know.
DEAD_AFTER: Final = "emq_dead_after"
#: KombuSettings.max_losses.
MAX_REDELIVERIES: Final = "emq_max_redeliveries"


def upstreams_for(
    urls: Sequence[str],
    *,
    name: str,
    queues: Sequence[tuple[int, str]],
    find_queue: Callable[[str], Any],
    declared: Callable[[], Any],
    conf: Mapping[str, Any],
    acks_late: Callable[[str], bool],
    emq: Callable[[Sequence[Address]], Upstream],
    prefetch_multiplier: int = 1,
) -> tuple[Upstream, ...]:
    """Return an upstream for each address, in their order.

    Args:
        urls: of brokers; each may be several of the same broker, joined by semicolons.
        name: the worker's node name.
        queues: (weight, name) of each queue listened on.
        find_queue, declared: as kombu_queues.Queues takes them.
        conf: the app's settings, under Celery's names.
        acks_late: task name → whether its messages are acknowledged when they have ended.
        emq: makes the upstream of our broker, or a stock router.
        prefetch_multiplier: worker_prefetch_multiplier; 1: nothing is held but what can begin.

    Raises:
        AddressError: one of them can't be used.
    """
    made: list[Upstream] = []
    for url in urls:
        if not is_kombu(url):
            made.append(emq(Address.parse(url)))
            continue
        from emq_compat.upstream.kombu import KombuUpstream  # noqa: PLC0415 - where it is used
        from emq_compat.upstream.kombu_ahead import per_slot  # noqa: PLC0415

        settings = kombu_settings(
            url, find_queue=find_queue, declared=declared, conf=conf, acks_late=acks_late
        )
        settings = replace(settings, ahead=per_slot(prefetch_multiplier))
        made.append(KombuUpstream(name=name, queues=queues, settings=settings))
    return tuple(made)


def kombu_settings(
    url: str,
    *,
    find_queue: Callable[[str], Any],
    declared: Callable[[], Any],
    conf: Mapping[str, Any],
    acks_late: Callable[[str], bool],
    controlled: bool = True,
) -> Any:
    """Return what a kombu upstream is told (KombuSettings); arguments are those of ``upstreams_for``.

    ``controlled``: it listens to remote control and tells events.
    """
    from emq_compat.upstream.kombu_queues import Queues  # noqa: PLC0415 - where it is used
    from emq_compat.upstream.kombu_tap import ETA_LIMIT, KombuSettings  # noqa: PLC0415

    queues = Queues(find_queue, declared, conf)
    options = dict(conf["broker_transport_options"] or {})
    dead_after_s = options.pop(DEAD_AFTER, 10.0)
    if not isinstance(dead_after_s, (int, float)) or not dead_after_s > 0:
        raise ConfigurationError(
            f"broker_transport_options: {DEAD_AFTER} is {dead_after_s!r}; it is a number of seconds above 0"
        )
    max_losses = options.pop(MAX_REDELIVERIES, 5)
    if not isinstance(max_losses, int) or isinstance(max_losses, bool) or max_losses < 0:
        raise ConfigurationError(
            f"broker_transport_options: {MAX_REDELIVERIES} is {max_losses!r}; it is a whole number (0: any)"
        )
    return KombuSettings(
        url=url,
        queue=queues,
        acks_late=acks_late,
        transport_options=options,
        ssl=conf["broker_use_ssl"] or False,
        login_method=conf["broker_login_method"],
        heartbeat_s=float(conf["broker_heartbeat"] or 0),
        connect_s=float(conf["broker_connection_timeout"] or 4.0),
        eta_limit=int(conf["worker_eta_task_limit"] or ETA_LIMIT),
        quorum=bool(conf["worker_detect_quorum_queues"]) and queues.quorum,
        delayed_queue_type=conf["broker_native_delayed_delivery_queue_type"] or "quorum",
        accept=tuple(conf["accept_content"] or ("json",)),
        dead_after_s=float(dead_after_s),
        max_losses=max_losses,
        control=control_settings(conf) if controlled else None,
    )


def control_settings(conf: Mapping[str, Any]) -> ControlSettings:
    """Return what Celery's settings say of remote control and events."""
    ttl, expires = conf["control_queue_ttl"], conf["control_queue_expires"]
    return ControlSettings(
        namespace=conf["control_exchange"] or "celery",
        queue_ttl_s=None if ttl is None else float(ttl),
        queue_expires_s=None if expires is None else float(expires),
        exclusive=bool(conf.get("control_queue_exclusive")),
        durable=bool(conf.get("control_queue_durable")),
        accept=tuple(conf["accept_content"] or ("json",)),
        serializer=conf["task_serializer"] or "json",
        event_exchange=conf["event_exchange"] or "celeryev",
        enabled=bool(conf["worker_enable_remote_control"]),
    )


def purge(url: str, queues: Sequence[str], conf: Mapping[str, Any]) -> int:
    """Drop what waits in these queues of a broker that kombu reaches; return how much it was.

    Raises:
        OperationalError: the broker isn't there.
    """
    from emq_compat.upstream.kombu_connection import Broker  # noqa: PLC0415 - where it is used

    settings = kombu_settings(
        url, find_queue=str, declared=tuple, conf=conf, acks_late=bool, controlled=False
    )
    return Broker("purge", settings).purge(queues)


def shown(url: str) -> str:
    """Return an address without its password."""
    from kombu.utils.url import maybe_sanitize_url  # noqa: PLC0415 - heavy

    return ";".join(str(maybe_sanitize_url(part)) for part in url.split(";"))
