"""Celery's signals (``celery.signals``): who sends which, and with what.

- A producer: before_task_publish, after_task_publish, task_sent. The sender is the task's name.
- Where the task runs: task_prerun, task_postrun, task_success, task_failure, task_retry,
  task_internal_error. The sender is the task.
- The worker's parent: task_received, task_revoked, task_unknown, task_rejected, and task_failure of a task
  whose process was lost or that hit its hard time limit.
- The worker's life, in this order: celeryd_init, celeryd_after_setup, import_modules, setup_logging (or
  after_setup_logger and after_setup_task_logger), worker_init, worker_before_create_process,
  worker_process_init, worker_ready, heartbeat_sent, worker_shutting_down, worker_process_shutdown,
  worker_shutdown.
"""

from __future__ import annotations

from emq_compat.shim.dispatch import Signal

__all__ = [
    "after_setup_logger",
    "after_setup_task_logger",
    "after_task_publish",
    "beat_embedded_init",
    "beat_init",
    "before_task_publish",
    "celeryd_after_setup",
    "celeryd_init",
    "eventlet_pool_apply",
    "eventlet_pool_postshutdown",
    "eventlet_pool_preshutdown",
    "eventlet_pool_started",
    "heartbeat_sent",
    "import_modules",
    "setup_logging",
    "task_failure",
    "task_internal_error",
    "task_postrun",
    "task_prerun",
    "task_received",
    "task_rejected",
    "task_retry",
    "task_revoked",
    "task_sent",
    "task_success",
    "task_unknown",
    "user_preload_options",
    "worker_before_create_process",
    "worker_init",
    "worker_process_init",
    "worker_process_shutdown",
    "worker_ready",
    "worker_shutdown",
    "worker_shutting_down",
]


class _NeverSent(Signal):
    """A signal of something that doesn't exist here (green pools): it can be imported and connected to."""

    __unsupported__ = True


def _signal(name: str, *providing_args: str) -> Signal:
    return Signal(name=name, providing_args=providing_args)


before_task_publish = _signal(
    "before_task_publish",
    "body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy",
)  # fmt: skip
after_task_publish = _signal("after_task_publish", "body", "exchange", "routing_key", "headers")
#: Celery's predecessor of after_task_publish.
task_sent = _signal("task_sent", "task_id", "task", "args", "kwargs", "eta", "taskset")

task_received = _signal("task_received", "request")
task_prerun = _signal("task_prerun", "task_id", "task", "args", "kwargs")
task_postrun = _signal("task_postrun", "task_id", "task", "args", "kwargs", "retval", "state")
task_success = _signal("task_success", "result", "runtime")
task_failure = _signal("task_failure", "task_id", "exception", "args", "kwargs", "traceback", "einfo")
task_internal_error = _signal(
    "task_internal_error", "task_id", "args", "kwargs", "request", "exception", "traceback", "einfo"
)
task_retry = _signal("task_retry", "request", "reason", "einfo")
task_revoked = _signal("task_revoked", "request", "terminated", "signum", "expired")
task_rejected = _signal("task_rejected", "message", "exc")
task_unknown = _signal("task_unknown", "message", "exc", "name", "id")

celeryd_init = _signal("celeryd_init", "instance", "conf", "options")
celeryd_after_setup = _signal("celeryd_after_setup", "instance", "conf")
import_modules = _signal("import_modules")
worker_init = _signal("worker_init")
worker_before_create_process = _signal("worker_before_create_process")
worker_process_init = _signal("worker_process_init")
worker_process_shutdown = _signal("worker_process_shutdown", "pid", "exitcode")
worker_ready = _signal("worker_ready")
worker_shutting_down = _signal("worker_shutting_down", "sig", "how", "exitcode")
worker_shutdown = _signal("worker_shutdown")
heartbeat_sent = _signal("heartbeat_sent")

setup_logging = _signal("setup_logging", "loglevel", "logfile", "format", "colorize")
after_setup_logger = _signal("after_setup_logger", "logger", "loglevel", "logfile", "format", "colorize")
after_setup_task_logger = _signal(
    "after_setup_task_logger", "logger", "loglevel", "logfile", "format", "colorize"
)

beat_init = _signal("beat_init")
beat_embedded_init = _signal("beat_embedded_init")

eventlet_pool_started = _NeverSent(name="eventlet_pool_started")
eventlet_pool_preshutdown = _NeverSent(name="eventlet_pool_preshutdown")
eventlet_pool_postshutdown = _NeverSent(name="eventlet_pool_postshutdown")
eventlet_pool_apply = _NeverSent(name="eventlet_pool_apply", providing_args=("target", "args", "kwargs"))

user_preload_options = _signal("user_preload_options", "app", "options")
