"""What people write in any script neither fails a task nor breaks its log (case 26)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.processes import Proc, wait_until
from tests.site import POOLS, Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

TEXTS = ("😀 ü", "שלום مرحبا", "lone \udc80")

#: An ASCII locale, without Python's ways around it.
ASCII = {
    "LC_ALL": "C",
    "PYTHONIOENCODING": "ascii",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
}

PROJECT = """
import logging

from emq_compat.shim.loggers import get_task_logger


@app.task(name="siteproj.écho_😀")
def echo(text, *, key):
    get_task_logger("siteproj.échos").info("logged %s", text)
    logging.getLogger("library").warning("told %s", key)
    print("printed", text)
    return {text: key}
"""


@pytest.mark.parametrize(
    ("pool", "to_file"),
    [
        pytest.param("prefork", True, id="prefork-file"),
        *(pytest.param(pool, False, id=f"{pool}-pipe") for pool in POOLS),
        *(pytest.param(pool, True, id=f"{pool}-file", marks=pytest.mark.long) for pool in POOLS[1:]),
    ],
)
def test_any_text_in_tasks_and_their_log(
    site: Site, assert_alive: Callable[[Proc], None], pool: str, to_file: bool
) -> None:
    """26: arguments, results, exceptions, names and log lines hold any text, with an ASCII locale, too."""
    site.write_project(PROJECT)
    site.start_broker()
    log = site.folder / "w.log"
    worker = site.start_worker("-P", pool, *(("-f", str(log)) if to_file else ()), env=ASCII)
    for text in TEXTS:
        assert {text: text} == site.tasks.echo.delay(text, key=text).get(timeout=10)
        with pytest.raises(ValueError) as failed:  # noqa: PT011 - its text is looked at
            site.tasks.fail.delay(text).get(timeout=10)
        assert _forms(text)[0] == _forms(str(failed.value))[0]
    assert_alive(worker)

    def written() -> str:
        return log.read_text(encoding="utf-8") if to_file else worker.output()

    plain = {line: text for text in TEXTS for line in _forms(text)}
    wait_until(lambda: any(f"printed {line}" in written() for line in _forms(TEXTS[-1])))
    for head in ("logged", "told", "printed", "ValueError:"):
        seen = {text for line, text in plain.items() if f"{head} {line}" in written()}
        assert set(TEXTS) == seen, head
    for broken in ("Logging error", "UnicodeEncodeError", "UnicodeDecodeError"):
        assert broken not in written() + worker.output()


def _forms(text: str) -> tuple[str, str]:
    """The text as UTF-8 holds it, and as ASCII does."""
    return (
        text.encode("utf-8", "backslashreplace").decode(),
        text.encode("ascii", "backslashreplace").decode(),
    )
