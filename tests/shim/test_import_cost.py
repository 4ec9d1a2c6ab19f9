"""What importing the shim must not bring along."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from emq_compat.shim import later

pytestmark = pytest.mark.integration

_HEAVY = ("zmq", "kombu", "asyncio", "sqlalchemy", "redis", "pydantic", "psutil", "click", "croniter")
#: Of the standard library, what takes a millisecond or more.
_LIBRARY = (
    "dataclasses", "difflib", "email", "inspect", "json", "logging", "platform", "tempfile", "uuid",
    "zipfile", "zoneinfo",
)  # fmt: skip
#: Of ours, what only publishing, running or workflows need.
_OURS = (
    "message", "headers", "run", "pool", "stored", "address", "backends", "shim.canvas", "shim.results",
    "shim.build", "shim.codec", "shim.execution", "shim.flow", "shim.handlers", "shim.signals", "shim.alias",
)  # fmt: skip

_DECLARE = """
from emq_compat.celery_shim import Celery, shared_task

app = Celery("app", broker="emq://127.0.0.1:1")

@app.task(bind=True, max_retries=5)
def add(self, x, y):
    return x + y

@shared_task
def mul(x, y):
    return x * y
"""


def _loaded(code: str, names: tuple[str, ...]) -> list[str]:
    """Return which of these modules a new interpreter has loaded after ``code``."""
    code += f"\nimport sys; print(*(name for name in {names!r} if name in sys.modules))"
    # -S, -I: neither site nor the environment brings any of them; the path is this interpreter's.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:] = {_path()!r}\n{code}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ("", 0) == (done.stderr, done.returncode)
    return done.stdout.split()


def _path() -> list[str]:
    return [str(Path(later.__file__).parents[2]), *sys.path]


@pytest.mark.parametrize("code", ["import emq_compat.celery_shim", _DECLARE], ids=["import", "declare"])
def test_the_import_is_cheap(code: str) -> None:
    """Importing the shim and declaring tasks loads nothing that is needed later only."""
    ours = tuple(f"emq_compat.{name}" for name in _OURS)
    assert [] == _loaded(code, (*_HEAVY, *_LIBRARY, *ours))


def test_workflows_and_results_are_cheap() -> None:
    """Workflows and results bring nothing that only publishing them, or asking for them, needs."""
    code = "from emq_compat.celery_shim import AsyncResult, GroupResult, chain, chord, group, signature"
    ours = tuple(f"emq_compat.{name}" for name in _OURS if name not in ("shim.canvas", "shim.results"))
    assert [] == _loaded(_DECLARE + code, (*_HEAVY, *_LIBRARY, *ours))


def test_what_is_loaded_later_is_where_the_types_say() -> None:
    """The table of what is loaded at its first use names what type checkers are told."""
    tree = ast.parse(Path(later.__file__).read_text())
    told = {
        (node.module, alias.name)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == {(f"emq_compat.{home}", name) for home, names in later.NAMES.items() for name in names}


def test_imports_of_the_shim_make_no_circle() -> None:
    """No module needs one that needs it: threads that load at the same moment never wait for each other."""
    root = Path(later.__file__).parent
    modules = {_name(path, root): path for path in root.rglob("*.py")}
    needs = {name: set(_needed(ast.parse(path.read_text()).body)) for name, path in modules.items()}
    for name in needs:
        needs[name].add(name.rpartition(".")[0])  # importing a module imports its package
        needs[name] &= modules.keys()
    TopologicalSorter(needs).prepare()


def _name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(("emq_compat", "shim", *(part for part in parts if part != "__init__")))


def _needed(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Yield what statements import when they are executed, of functions only their definition."""
    for statement in body:
        if isinstance(statement, ast.ImportFrom):
            assert statement.module is not None
            yield statement.module
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.If):
            if ast.unparse(statement.test) != "TYPE_CHECKING":
                yield from _needed(statement.body)
            yield from _needed(statement.orelse)
        elif isinstance(statement, (ast.Try, ast.With, ast.ClassDef)):
            yield from _needed(statement.body)


#: What a worker of plain functions has no use for.
_SPARED = (
    "asyncio", "ssl", "email", "zipfile", "kombu", "sqlalchemy", "redis", "pydantic", "psutil", "croniter",
    *(f"emq_compat.{home}" for home in sorted(later.SELDOM - {"shim.alias.finder", "shim.annotations"})),
)  # fmt: skip

_WORK = """
from emq_compat.cli import worker_run
from emq_compat.pool.factory import make_pool
from emq_compat.pool.base import PoolOptions
program = worker_run.ShimProgram(app)
program.worker_init()
make_pool("prefork", PoolOptions(concurrency=1), program.work)
"""


def test_a_worker_has_what_its_tasks_need_before_it_forks() -> None:
    """Children share it; what few tasks need is not there unasked, asyncio only for coroutines."""
    needed = tuple(f"emq_compat.{home}" for home in later.NAMES if home not in later.SELDOM)
    assert [] == _loaded(_DECLARE + _WORK, _SPARED)
    assert list(needed) == _loaded(_DECLARE + _WORK, needed)
    a_coroutine = "\n@app.task\nasync def later(): pass\n"
    assert ["asyncio"] == _loaded(_DECLARE + a_coroutine + _WORK, ("asyncio",))


def test_every_name_is_where_it_is_looked_for() -> None:
    """What is loaded later can be loaded, and what is seldom loaded is one of these."""
    for names in later.NAMES.values():
        assert [] == [name for name in names if not hasattr(later, name)]
    assert later.SELDOM <= set(later.NAMES)
