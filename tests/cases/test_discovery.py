"""Which modules with tasks a worker imports, and what becomes of one that can't be imported (case 29)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.site import Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

APP = '''
from emq_compat.celery_shim import Celery

app = Celery("disc", broker={url!r}, include={include!r})
app.autodiscover_tasks({packages!r})
app.autodiscover_tasks(lambda: ["pkg_jobs"], related_name="jobs")
'''

TASK = """
from disc import app


@app.task
def work():
    pass
"""


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def project(site: Site, *packages: str, include: tuple[str, ...] = ()) -> None:
    write(
        site.folder,
        {
            "disc.py": APP.format(url=site.url, include=list(include), packages=list(packages)),
            "pkg_with/__init__.py": "",
            "pkg_with/tasks.py": TASK,
            "pkg_without/__init__.py": "",
            "pkg_jobs/__init__.py": "",
            "pkg_jobs/jobs.py": TASK,
            "pkg_namespace/tasks.py": TASK,
            "pkg_broken/__init__.py": "",
            "pkg_broken/tasks.py": "import no_such_library\n",
            "pkg_raises/__init__.py": "",
            "pkg_raises/tasks.py": "raise ValueError('not today')\n",
        },
    )


def test_found_modules_are_imported_and_missing_ones_are_passed_over(site: Site) -> None:
    """tasks.py of a package, of a namespace package, and another file by related_name; none is no mistake."""
    site.start_broker()
    project(site, "pkg_with", "pkg_without", "pkg_namespace", include=("pkg_with.tasks",))

    worker = site.procs.emq(
        "worker", "-A", "disc", "-c", "1", "-n", "d@h", cwd=site.folder, ready="is ready"
    )

    tasks = ["pkg_jobs.jobs.work", "pkg_namespace.tasks.work", "pkg_with.tasks.work"]
    registered = site.tasks.app.control.inspect(timeout=10).registered()
    assert {"d@h": tasks} == {
        node: [name for name in names if name.endswith(".work")] for node, names in registered.items()
    }
    assert [] == [name for name in tasks if name not in worker.output()]
    assert "Traceback" not in worker.output()


@pytest.mark.parametrize(
    ("package", "include", "told"),
    [
        ("pkg_broken", (), ["Traceback", "(pkg_broken.tasks)", "no_such_library", "pkg_broken/tasks.py"]),
        ("pkg_raises", (), ["Traceback", "(pkg_raises.tasks)", "not today", "pkg_raises/tasks.py"]),
        ("pkg_with", ("pkg.none",), ["(pkg.none)", "No module named 'pkg'"]),
        ("pkg_gone", (), ["(pkg_gone.tasks)", "No module named 'pkg_gone'"]),
    ],
)
def test_what_cant_be_imported_ends_the_start(
    site: Site, package: str, include: tuple[str, ...], told: list[str]
) -> None:
    """It says which, with the traceback of the project's own code that failed, and ends with an error."""
    project(site, package, include=include)

    worker = site.procs.emq("worker", "-A", "disc", "-c", "1", cwd=site.folder)

    assert worker.wait() == 1
    said = worker.output()
    assert [] == [t for t in ("importing its tasks failed", *told) if t not in said]
    assert "frozen importlib" not in said
