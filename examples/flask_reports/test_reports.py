"""The application's own tests: `python -m pytest`. Broker and worker are in the test's process."""

import os
import time
import uuid

import pytest
from reports import create_app, sales, tasks

from emq_compat.testing.worker import start_worker


@pytest.fixture
def app(tmp_path, monkeypatch):
    """An application with a folder and a broker of its own."""
    monkeypatch.setattr(sales, "_PAUSE_S", 0)
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    app = create_app({"REPORTS": tmp_path / "reports"})
    app.extensions["celery"].conf.broker_url = "memory://"
    app.extensions["celery"].set_current()  # start_worker leaves the app of the test before current
    return app


@pytest.fixture
def browser(app):
    """Asks the application, while a worker runs."""
    with start_worker(app.extensions["celery"], perform_ping_check=False):
        yield app.test_client()


def test_a_report_is_written(browser):
    """It is ordered, watched and fetched."""
    ordered = browser.post("/reports", json={"year": 2025})
    assert ordered.status_code == 202
    deadline = time.monotonic() + 30
    answer = {"state": "PENDING"}
    while answer["state"] in ("PENDING", "PROGRESS"):
        assert time.monotonic() < deadline
        answer = browser.get(ordered.json["status"]).json
    assert (answer["state"], answer["rows"]) == ("SUCCESS", 1008)
    with browser.get(answer["file"]) as file:
        assert file.text.startswith("day,goods,pieces\r\n2025-01-01,chairs,")


def test_a_failure_is_told(browser, app):
    """The status says what went wrong."""
    app.config["REPORTS"].rmdir()
    ordered = browser.post("/reports", json={"year": 2025})
    deadline = time.monotonic() + 30
    answer = {"state": "PENDING"}
    while answer["state"] == "PENDING":
        assert time.monotonic() < deadline
        answer = browser.get(ordered.json["status"]).json
    assert answer["state"] == "FAILURE"
    assert "No such file" in answer["error"]


def test_an_answer_is_of_one_moment(app, monkeypatch):
    """State and progress are read together: between two reads the report may be done."""
    moments = iter([{"status": "PROGRESS", "result": {"done": 3, "of": 12}}])
    monkeypatch.setattr(app.extensions["celery"].backend, "get_task_meta", lambda task_id: next(moments))
    answer = app.test_client().get(f"/reports/{uuid.uuid4()}").json
    assert answer == {"state": "PROGRESS", "done": 3, "of": 12}


def test_what_is_no_year_is_refused(app):
    """Without a worker: nothing is published."""
    for wrong in ({}, {"year": "2025"}, {"year": 3}):
        assert app.test_client().post("/reports", json=wrong).status_code == 400


def test_old_reports_go(app):
    """The scheduled clean-up deletes what is older than a day, in the application's context."""
    folder = app.config["REPORTS"]
    for name in ("old.csv", "new.csv", "other.txt"):
        (folder / name).touch()
    day_ago = time.time() - 25 * 3600
    for name in ("old.csv", "other.txt"):
        os.utime(folder / name, (day_ago, day_ago))
    tasks.tidy_up()
    assert sorted(path.name for path in folder.iterdir()) == ["new.csv", "other.txt"]
    [entry] = app.extensions["celery"].conf.beat_schedule.values()
    assert entry["task"] == tasks.tidy_up.name
