"""A project's logging stays its own, and signals are sent once in each process, in order (case 43)."""

from __future__ import annotations

import gc
import json
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.processes import Proc
from tests.site import POOLS, Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

LISTENING = '''
from emq_compat.shim import signals


def listen(signal, **kwargs):
    note(f"signal {signal.name} {os.getpid()}")


for _name in signals.__all__:
    if _name != "setup_logging":
        getattr(signals, _name).connect(listen)


@signals.task_prerun.connect
def broken_receiver(**kwargs):
    raise ValueError("boo")


@signals.celeryd_init.connect(sender="w@h")
def configure(conf, **kwargs):
    conf.worker_task_log_format = "configured %(task_name)s: %(message)s"


@signals.celeryd_after_setup.connect
def listen_to_more(instance, **kwargs):
    instance.app.amqp.queues.select_add("more")


@app.task
def say(text):
    print(text)


@signals.worker_ready.connect
@signals.worker_init.connect
@signals.worker_shutdown.connect
def of_the_worker(signal, sender, **kwargs):
    note(f"sender {signal.name} {sender.hostname} {sender.app.main}")
'''

#: A JSON handler at the root that a filter marks, and a task that logs and prints.
OWN_LOGGING = '''
import json, logging, logging.config

from emq_compat.shim import signals
from emq_compat.shim.loggers import get_task_logger


class Mark(logging.Filter):
    def filter(self, record):
        record.mark = "ours"
        return True


class Json(logging.Formatter):
    def format(self, record):
        return json.dumps({{"logger": record.name, "text": record.getMessage(), "mark": record.mark}})


def configure(**kwargs):
    logging.config.dictConfig({{
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {{"mark": {{"()": Mark}}}},
        "formatters": {{"json": {{"()": Json}}}},
        "handlers": {{"file": {{
            "class": "logging.FileHandler", "filename": {log!r}, "filters": ["mark"], "formatter": "json",
        }}}},
        "root": {{"level": "INFO", "handlers": ["file"]}},
    }})


{how}


@app.task
def talk():
    get_task_logger("siteproj.talk").info("spoken")
    root = logging.getLogger()
    return [[type(h.formatter).__name__ for h in root.handlers], root.level, len(root.handlers[0].filters)]
'''

HOW = {
    "hijack off": "app.conf.worker_hijack_root_logger = False\nconfigure()",
    "receiver": "signals.setup_logging.connect(configure)",
}

PRINTING = '''
from emq_compat.shim.loggers import get_task_logger


@app.task
def talk():
    print("printed", "in", "one line")
    get_task_logger(__name__).warning("spoken")
    print("open end", end="")
'''

#: Once in each process, in Celery's order; what comes between depends on the pool.
BEGIN = [
    "import_modules",
    "celeryd_init",
    "worker_init",
    "after_setup_logger",
    "after_setup_task_logger",
    "celeryd_after_setup",
]


@pytest.fixture(autouse=True)
def _forget_receivers() -> Iterator[None]:
    """The project is imported here, too: its receivers go with it."""
    yield
    gc.collect()


@pytest.mark.parametrize("pool", POOLS)
def test_each_signal_once_in_order(site: Site, assert_alive: Callable[[Proc], None], pool: str) -> None:
    """43: start, tasks and end send Celery's signals; a receiver that raises is logged, and the task runs."""
    site.write_project(LISTENING)
    site.start_broker()
    worker = site.start_worker("-P", pool, "-c", "2", "-n", "w@h")
    for n in range(4):
        assert f"t{n}" == site.tasks.ping.delay(f"t{n}").get(timeout=10)
    assert_alive(worker)
    site.tasks.say.apply_async(("more",), queue="more").get(timeout=10)
    site.wait_runs("signal heartbeat_sent")
    worker.send_signal(signal.SIGTERM)
    assert 0 == worker.wait(30)

    lines = [line.split()[1:] for line in site.runs() if line.startswith("signal")]
    parent = str(worker.pid)
    in_parent = [name for name, pid in lines if pid == parent and name != "heartbeat_sent"]
    inside = ["task_prerun", "task_success", "task_postrun"]
    of_tasks = [name for name, pid in lines if name in inside]
    assert inside * 6 == of_tasks

    children = {pid for name, pid in lines if pid != parent and name == "worker_process_init"}
    for child in children:
        own = [name for name, pid in lines if pid == child]
        assert ["worker_process_init", "worker_process_shutdown"] == [own[0], own[-1]]
        assert [1, 1] == [own.count("worker_process_init"), own.count("worker_process_shutdown")]
    life = [name for name in in_parent if name not in (*inside, "task_received")]
    if pool == "prefork":
        assert 2 == len(children)
        made = ["worker_before_create_process"] * 2
        assert [*BEGIN, *made, "worker_ready", "worker_shutting_down", "worker_shutdown"] == life
    else:
        assert not children
        assert [
            *BEGIN, "worker_process_init", "worker_ready", "worker_shutting_down",
            "worker_process_shutdown", "worker_shutdown",
        ] == life  # fmt: skip
    assert 6 == in_parent.count("task_received")
    assert [f"sender {name} w@h siteproj" for name in ("worker_init", "worker_ready", "worker_shutdown")] == [
        line for line in site.runs() if line.startswith("sender")
    ]
    output = worker.output()
    assert "configured siteproj.say: more" in output
    assert "receiver siteproj.broken_receiver of the signal task_prerun raised" in output
    assert "ValueError: boo" in output


@pytest.mark.parametrize("pool", [POOLS[0], *(pytest.param(p, marks=pytest.mark.long) for p in POOLS[1:])])
@pytest.mark.parametrize("how", HOW)
def test_the_projects_logging(site: Site, pool: str, how: str) -> None:
    """43: with hijacking off or a receiver of setup_logging handlers, levels and filters are untouched."""
    log = site.folder / "project.log"
    site.write_project(OWN_LOGGING.format(log=str(log), how=HOW[how]))
    site.start_broker()
    worker = site.start_worker("-P", pool, "-l", "debug")
    assert [["Json"], 20, 1] == site.tasks.talk.delay().get(timeout=10)
    worker.send_signal(signal.SIGTERM)
    worker.wait(30)

    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"ours"} == {record["mark"] for record in records}
    spoken = [record["logger"] for record in records if record["text"] == "spoken"]
    assert ["siteproj.talk"] == spoken
    told = [(r["logger"], r["text"].partition("[")[0]) for r in records if "siteproj.talk[" in r["text"]]
    assert [
        ("celery.worker.strategy", "Task siteproj.talk"),
        ("celery.app.trace", "Task siteproj.talk"),
    ] == told
    assert "spoken" not in worker.output()


@pytest.mark.parametrize(
    "pool", [POOLS[0], "spawn", *(pytest.param(p, marks=pytest.mark.long) for p in POOLS[1:])]
)
def test_what_a_task_prints(site: Site, pool: str) -> None:
    """43: print() in a task is one line of the log, with the task's name and id, as is what it logs."""
    spawns = "\napp.conf.worker_pool_start_method = 'spawn'\n"
    site.write_project(PRINTING + (spawns if pool == "spawn" else ""))
    site.start_broker()
    worker = site.start_worker("-P", "prefork" if pool == "spawn" else pool)
    result = site.tasks.talk.delay()
    result.get(timeout=10)

    called = f"siteproj.talk[{result.id}]"
    worker.wait_line(f"{called}: open end")
    lines = [line for line in worker.output().splitlines() if called in line and ": WARNING/" in line]
    texts = ["printed in one line", "spoken", "open end"]
    assert texts == [line.rpartition(f"{called}: ")[2] for line in lines]
