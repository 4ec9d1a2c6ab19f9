"""Celery's modules: in which of our modules their names are found.

Celery's module → (our modules whose ``__all__`` are its names, further names → ``our.module:attribute``). A
name is looked up among the further ones first, then in our modules in their order. What no row gives is an
ImportError that says so.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MODULES"]

_SHIM = "emq_compat.shim."


def _row(*sources: str, **names: str) -> tuple[tuple[str, ...], dict[str, str]]:
    return (
        tuple(source if source.startswith("emq_compat.") else _SHIM + source for source in sources),
        {name: where if where.startswith(("emq_compat.", "kombu.")) else _SHIM + where
         for name, where in names.items()},
    )  # fmt: skip


def _of(module: str, *names: str) -> dict[str, str]:
    return {name: f"{module}:{name}" for name in names}


_FACADE = "emq_compat.celery_shim"
_CANVAS = _of(
    "canvas.kinds",
    "Signature", "signature", "maybe_signature", "subtask", "chain", "group", "chord", "chunks", "xmap",
    "xstarmap",
)  # fmt: skip
_VERSIONS = _of(
    "surface.release", "SERIES", "VERSION", "VERSION_BANNER", "__version__", "version_info", "version_info_t"
)
_CURRENT = _of(_FACADE, "current_app", "current_task")

MODULES: Final[dict[str, tuple[tuple[str, ...], dict[str, str]]]] = {
    "celery": _row(
        Celery="app:Celery",
        Task="task:Task",
        shared_task="declare:shared_task",
        uuid="emq_compat.message:new_id",
        bugreport="surface.apps:bugreport",
        maybe_patch_concurrency="surface.apps:maybe_patch_concurrency",
        **_CURRENT,
        **_CANVAS,
        **_VERSIONS,
    ),
    "celery.__main__": _row(main="emq_compat.cli.main:main"),
    "celery._state": _row("surface.state", **_CURRENT),
    "celery.app": _row("surface.apps", Celery="app:Celery", shared_task="declare:shared_task"),
    "celery.app.amqp": _row(**_of("amqp", "AMQP"), **_of("queues", "Queues")),
    "celery.app.backends": _row(**_of("backend_kinds", "by_name", "by_url")),
    "celery.app.control": _row("control", "inspection"),
    "celery.app.autoretry": _row("surface.autoretry"),
    "celery.app.base": _row(Celery="app:Celery"),
    "celery.app.builtins": _row(),
    "celery.app.defaults": _row("surface.defaults"),
    "celery.app.events": _row(Events="events.system:Events"),
    "celery.app.log": _row(**_of("log", "Logging", "TaskFormatter")),
    "celery.app.registry": _row("registry"),
    "celery.app.routes": _row("routes", Router="amqp:Router"),
    "celery.app.task": _row(Task="task:Task", Context="request:Context"),
    "celery.app.trace": _row("surface.trace"),
    "celery.app.utils": _row(
        Settings="settings:Settings", find_app="find_app:find_app", bugreport="surface.apps:bugreport"
    ),
    "celery.apps": _row(),
    "celery.apps.beat": _row(Beat="beat.program:Beat"),
    "celery.apps.worker": _row(Worker="programs:Worker"),
    "celery.backends": _row(),
    "celery.backends.base": _row(
        Backend="backend:Backend",
        BaseBackend="backend:Backend",
        BaseDictBackend="surface.dict_backend:BaseDictBackend",
        KeyValueStoreBackend="surface.keyvalue_backend:KeyValueStoreBackend",
        get_current_task="surface.dict_backend:get_current_task",
        DisabledBackend="backend_kinds:DisabledBackend",
    ),
    "celery.beat": _row(
        **_of("beat.entry", "BeatLazyFunc", "ScheduleEntry", "SchedulingError"),
        **_of("beat.scheduler", "DEFAULT_MAX_INTERVAL", "Scheduler", "event_t"),
        **_of("beat.persistent", "PersistentScheduler"),
        **_of("beat.service", "EmbeddedService", "Service"),
    ),
    "celery.bin": _row(),
    "celery.bin.base": _row(
        **_of(
            "emq_compat.cli.parts",
            "CLIContext", "CeleryCommand", "CeleryDaemonCommand", "CeleryOption", "CommaSeparatedList",
            "DaemonOption", "ISO8601DateTime", "ISO8601DateTimeOrFloat", "JsonArray", "JsonObject",
            "LogLevel", "COMMA_SEPARATED_LIST", "ISO8601", "ISO8601_OR_FLOAT", "JSON_ARRAY",
            "JSON_OBJECT", "LOG_LEVEL",
            "handle_preload_options", "handle_remote_command_error",
        )
    ),
    "celery.bin.celery": _row(celery="emq_compat.cli.main:cli", main="emq_compat.cli.main:main"),
    "celery.bootsteps": _row("surface.bootsteps"),
    "celery.canvas": _row("canvas.kinds", **_of("canvas.kinds", "_chain", "_chord")),
    "celery.concurrency": _row("surface.pools"),
    "celery.contrib": _row(),
    "celery.contrib.abortable": _row("abortable"),
    "celery.contrib.django": _row(),
    "celery.contrib.django.task": _row(**_of("django", "DjangoTask")),
    "celery.contrib.rdb": _row("surface.rdb"),
    "celery.contrib.testing": _row(),
    "celery.contrib.migrate": _row("surface.migrate"),
    "celery.contrib.pytest": _row("emq_compat.testing.plugin"),
    "celery.contrib.testing.app": _row("emq_compat.testing.app"),
    "celery.contrib.testing.manager": _row("emq_compat.testing.manager"),
    "celery.contrib.testing.mocks": _row("emq_compat.testing.mocks"),
    "celery.contrib.testing.tasks": _row("emq_compat.testing.tasks"),
    "celery.contrib.testing.worker": _row("emq_compat.testing.worker"),
    "celery.events": _row(
        **_of("events.event", "Event", "event_exchange", "get_exchange", "group_from"),
        **_of("events.dispatcher", "EventDispatcher"),
        **_of("events.receiver", "EventReceiver"),
    ),
    "celery.events.cursesmon": _row("events.screen"),
    "celery.events.dispatcher": _row(**_of("events.dispatcher", "EventDispatcher")),
    "celery.events.dumper": _row("events.dumper"),
    "celery.events.event": _row(
        **_of(
            "events.event",
            "EVENT_EXCHANGE_NAME", "Event", "event_exchange", "get_exchange", "group_from",
        )
    ),
    "celery.events.receiver": _row(**_of("events.receiver", "EventReceiver")),
    "celery.events.snapshot": _row("events.snapshot"),
    "celery.events.state": _row(
        "events.state",
        **_of("events.records", "HEARTBEAT_DRIFT_MAX", "HEARTBEAT_EXPIRE_WINDOW", "TASK_EVENT_TO_STATE"),
    ),
    "celery.exceptions": _row("exceptions", **_of("surface.command_error", "CeleryCommandException")),
    "celery.execute": _row(send_task="surface.apps:send_task"),
    "celery.fixups": _row(),
    "celery.fixups.django": _row("django"),
    "celery.loaders": _row(),
    "celery.loaders.app": _row(**_of("loader", "AppLoader")),
    "celery.loaders.base": _row("loader"),
    "celery.loaders.default": _row(Loader="loader:AppLoader"),
    "celery.local": _row("surface.local"),
    "celery.log": _row(
        **_of(
            "surface.old_modules",
            "get_default_logger", "redirect_stdouts_to_logger", "setup_logging_subsystem",
        )
    ),
    "celery.messaging": _row(**_of("surface.old_modules", "establish_connection")),
    "celery.platforms": _row("surface.platforms"),
    "celery.registry": _row(tasks="surface.apps:tasks"),
    "celery.result": _row("result"),
    "celery.schedules": _row(
        *(f"schedules.{part}" for part in ("base", "fields", "interval", "cron", "solar", "maybe"))
    ),
    "celery.signals": _row("signals"),
    "celery.states": _row("states"),
    "celery.utils": _row(
        uuid="emq_compat.message:new_id",
        gen_unique_id="emq_compat.message:new_id",
        cached_property="kombu.utils.objects:cached_property",
        gen_task_name="surface.imports:gen_task_name",
        get_full_cls_name="surface.imports:qualname",
        nodename="surface.names:nodename",
        nodesplit="surface.names:nodesplit",
        worker_direct="surface.names:worker_direct",
        chunks="surface.functional:chunks",
        noop="surface.functional:noop",
        memoize="kombu.utils.functional:memoize",
        import_from_cwd="surface.imports:import_from_cwd",
        instantiate="surface.imports:instantiate",
    ),
    "celery.utils.collections": _row("surface.collections"),
    "celery.utils.debug": _row("surface.debug"),
    "celery.utils.dispatch": _row("dispatch"),
    "celery.utils.dispatch.signal": _row("dispatch"),
    "celery.utils.functional": _row("surface.functional", memoize="kombu.utils.functional:memoize"),
    "celery.utils.graph": _row("graph"),
    "celery.utils.imports": _row("surface.imports"),
    "celery.utils.iso8601": _row(parse_iso8601="surface.times:maybe_iso8601"),
    "celery.utils.log": _row("loggers"),
    "celery.utils.nodenames": _row("surface.names"),
    "celery.utils.objects": _row(),
    "celery.utils.saferepr": _row("surface.saferepr"),
    "celery.utils.serialization": _row("surface.serialization"),
    "celery.utils.text": _row("surface.text"),
    "celery.utils.threads": _row("surface.threads"),
    "celery.utils.time": _row("surface.times"),
    "celery.worker": _row(WorkController="worker:WorkController"),
    "celery.worker.autoscale": _row(
        **_of("emq_compat.manager.autoscale", "AUTOSCALE_KEEPALIVE", "Autoscaler")
    ),
    "celery.worker.consumer": _row(Consumer="worker:Consumer"),
    "celery.worker.control": _row("panel"),
    "celery.worker.request": _row(Request="worker:Request"),
    "celery.worker.state": _row("surface.worker_state"),
    "billiard": _row(),
    "billiard.einfo": _row(ExceptionInfo="handlers:ExceptionInfo"),
    "billiard.exceptions": _row(
        **_of("exceptions", "SoftTimeLimitExceeded", "TimeLimitExceeded", "WorkerLostError", "Terminated")
    ),
}
