"""What is imported of Celery is found, under whatever name, and judged by the list."""

from __future__ import annotations

from pathlib import Path

import pytest

from emq_compat.migration.items import read_items
from emq_compat.migration.verdicts import Verdicts
from tests.migration.trees import findings, found, item, write

pytestmark = [pytest.mark.unit]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from celery import Celery", "celery:Celery"),
        ("from celery import Celery as C", "celery:Celery"),
        ("import celery as c\nc.Celery", "celery:Celery"),
        ("import celery\ncelery.signals.task_prerun", "celery.signals:task_prerun"),
        ("import celery.signals\ncelery.signals.task_prerun", "celery.signals:task_prerun"),
        ("import celery.signals as s\ns.task_prerun", "celery.signals:task_prerun"),
        ("from celery import signals\nsignals.task_prerun", "celery.signals:task_prerun"),
        ("from celery.utils.log import get_task_logger", "celery.utils.log:get_task_logger"),
        ("def f():\n    from celery.result import AsyncResult", "celery.result:AsyncResult"),
        ("if True:\n    import celery as c\ndef f():\n    return c.chain", "celery:chain"),
        ("import celery\ngetattr(celery, 'chord')", "celery:chord"),
        ("from kombu import Queue", "kombu:Queue"),
        ("from billiard.einfo import ExceptionInfo", "billiard.einfo:ExceptionInfo"),
    ],
)
def test_aliases_are_followed(source: str, name: str, tmp_path: Path) -> None:
    """A name counts as Celery's by what is imported, not by how it is called."""
    write(tmp_path, {"a.py": source})
    assert "supported" == found(tmp_path, "import")[name]


def test_lines_and_columns(tmp_path: Path) -> None:
    """A finding names its line and its column, also where a statement has several lines."""
    write(tmp_path, {"a.py": "from celery import (\n    chain,\n    chord,\n)\n"})
    assert [(2, 5, "celery:chain"), (3, 5, "celery:chord")] == [
        (one.line, one.column, one.name) for one in findings(tmp_path)
    ]


def test_what_the_list_has_decides(tmp_path: Path) -> None:
    """A row of the list says what a name comes to; with another row it is another."""
    write(tmp_path, {"a.py": "from celery import chain\nfrom celery.bogus import thing\n"})
    with_row = findings(tmp_path, Verdicts(items=[item("import", "celery:chain", note="no chains")]))
    assert ("unsupported", "no chains") == (with_row[0].status, with_row[0].reason)
    without = findings(tmp_path, Verdicts(items=[]))
    assert ["supported", "unsupported"] == [one.status for one in without]
    assert "celery.bogus" in without[1].reason


def test_every_import_of_the_list_is_known(tmp_path: Path) -> None:
    """Each of the list's imports, written down, is found with the list's status."""
    rows = [row for row in read_items() if row.area == "import" and row.item.startswith("celery")]
    lines = []
    for row in rows:
        module, _, name = row.item.partition(":")
        lines.append(f"from {module} import {name}" if name else f"import {module}")
    write(tmp_path, {"a.py": "\n".join(lines)})
    status = {"supported": "supported", "different": "different", "absent": "unsupported"}
    signals = {row.item: status[row.status] for row in read_items() if row.area == "signal"}
    assert {
        row.item: max(
            status[row.status],
            signals.get(row.item.removeprefix("celery.signals:"), "supported"),
            key=["supported", "different", "unsupported"].index,
        )
        for row in rows
    } == found(tmp_path)


def test_an_import_that_may_fail_is_no_obstacle(tmp_path: Path) -> None:
    """An unsupported import inside of `try … except ImportError` is only different."""
    write(
        tmp_path,
        {"a.py": "try:\n    from celery.bogus import thing\nexcept ImportError:\n    thing = None\n"},
    )
    assert {"celery.bogus:thing": "different"} == found(tmp_path)


def test_a_star_is_not_seen(tmp_path: Path) -> None:
    """Which names a star brings is said not to be seen."""
    write(tmp_path, {"a.py": "from celery.result import *\n"})
    assert {"celery.result:*": "not seen"} == found(tmp_path)


def test_names_in_strings(tmp_path: Path) -> None:
    """A name of Celery's in a string is found; a logger's or a built-in task's isn't one."""
    source = """
        from unittest import mock
        mock.patch("celery.app.task.Task.apply_async")
        SCHEDULER = "celery.beat:PersistentScheduler"
        logging.getLogger("celery.app.trace")
        app.send_task("celery.chord")
        """
    write(tmp_path, {"a.py": source})
    assert {"celery.app.task:Task", "celery.beat:PersistentScheduler"} == set(found(tmp_path, "string"))


def test_the_pytest_plugin_is_found(tmp_path: Path) -> None:
    """Celery's pytest plugin is found where pytest is told of it: in conftest.py, and by -p in settings."""
    write(
        tmp_path,
        {
            "conftest.py": 'pytest_plugins = ["celery.contrib.pytest"]\n',
            "pytest.ini": "[pytest]\naddopts = -ra -p celery.contrib.pytest\n",
            "pyproject.toml": '[tool.pytest.ini_options]\naddopts = ["-p", "celery.contrib.pytest"]\n',
        },
    )
    assert {"celery.contrib.pytest": "different"} == found(tmp_path, "string")
    assert {"conftest.py", "pytest.ini", "pyproject.toml"} == {one.path.name for one in findings(tmp_path)}


def test_what_builds_on_celery_is_told(tmp_path: Path) -> None:
    """A package of somebody else's that builds on Celery is not seen, one of the code base is read."""
    source = "import celery_once\nfrom celery_own.tasks import x\nimport django_celery_beat.models\n"
    write(tmp_path, {"a.py": source, "celery_own/__init__.py": "", "celery_own/tasks.py": "x = 1\n"})
    packages = found(tmp_path, "package")
    assert "not seen" == packages["celery-once"]
    assert {"celery-once", "django-celery-beat"} == set(packages)


def test_our_own_imports_are_read_as_celerys(tmp_path: Path) -> None:
    """A file whose imports were changed to the shim's is judged as before."""
    source = """
        from emq_compat.celery_shim import shared_task
        from emq_compat.celery_shim.signals import task_prerun

        @shared_task(acks_late=True, Strategy="x")
        def add(x): ...

        @task_prerun.connect(weak=False)
        def seen(**kwargs): ...

        add.apply_async(countdown=3)
        """
    write(tmp_path, {"a.py": source})
    names = found(tmp_path)
    assert {"acks_late", "Strategy", "Signal.connect", "apply_async(countdown=)"} <= set(names)
    assert not [name for name in names if ":" in name]  # they are no imports of Celery's any more


def test_what_only_the_shim_has_is_no_obstacle(tmp_path: Path) -> None:
    """A project that calls install() already is as good as one that doesn't yet."""
    ours = "import emq_compat.celery_shim as s\ns.install()\nfrom emq_compat.celery_shim import task\n"
    write(tmp_path, {"a.py": ours})
    assert {} == found(tmp_path, "import")
    write(tmp_path, {"a.py": "from celery import task, Retry, install"})
    assert {"unsupported"} == set(found(tmp_path, "import").values())
