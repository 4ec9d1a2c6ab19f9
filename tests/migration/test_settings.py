"""Settings are found wherever a code base keeps them, and judged by the settings' tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.migration.trees import findings, found, write

pytestmark = [pytest.mark.unit]

APP = "from celery import Celery\napp = Celery('proj')\n"


@pytest.mark.parametrize(
    "files",
    [
        {"a.py": APP + "app.conf.worker_lost_wait = 3\n"},
        {"a.py": APP + "app.conf['worker_lost_wait'] = 3\n"},
        {"a.py": APP + "app.conf.update(worker_lost_wait=3)\n"},
        {"a.py": APP + "app.conf.update({'worker_lost_wait': 3})\n"},
        {"a.py": APP + "app.conf.update(dict(worker_lost_wait=3))\n"},
        {"a.py": APP + "C = {'worker_lost_wait': 3}\napp.conf.update(C)\n"},
        {"a.py": APP + "app.conf.update(**{'worker_lost_wait': 3})\n"},
        {"a.py": APP + "app.add_defaults({'worker_lost_wait': 3})\n"},
        {"a.py": "from celery import Celery\napp = Celery('proj', worker_lost_wait=3)\n"},
        {"a.py": APP + "app.config_from_object('conf')\n", "conf.py": "worker_lost_wait = 3\n"},
        {"a.py": APP + "app.config_from_object('c:C')\n", "c.py": "class C:\n    worker_lost_wait = 3\n"},
        {"a.py": APP + "import c\napp.config_from_object(c)\n", "c.py": "worker_lost_wait: int = 3\n"},
        {"a.py": APP + "class C:\n    worker_lost_wait = 3\napp.config_from_object(C)\n"},
        {"a.py": APP + "class C:\n    worker_lost_wait = 3\napp.config_from_object(C())\n"},
        {"a.py": APP + "app.config_from_object({'worker_lost_wait': 3})\n"},
        {"celeryconfig.py": "worker_lost_wait = 3\n"},
        {"celeryconfig.py": "CELERYD_WORKER_LOST_WAIT = 3\n"},
        {
            "a.py": APP + "app.config_from_object('django.conf:settings', namespace='CELERY')\n",
            "settings/base.py": "CELERY_WORKER_LOST_WAIT = 3\n",
        },
        {
            "a.py": APP + "app.config_from_object('django.conf:settings', namespace='JOBS')\n",
            "settings.py": "JOBS_WORKER_LOST_WAIT = 3  # celery\n",
        },
        {"a.py": "flask.config.from_mapping(CELERY=dict(worker_lost_wait=3))\n"},
        {"a.py": "flask.config['CELERY'] = {'worker_lost_wait': 3}\n"},
        {"a.py": "flask.config['CELERYD_WORKER_LOST_WAIT'] = 3\n"},
        {"a.py": "flask.config.update(CELERYD_WORKER_LOST_WAIT=3)\n"},
        {"a.py": "class Config:\n    CELERYD_WORKER_LOST_WAIT = 3\n"},
        {".env": "CELERY_WORKER_LOST_WAIT=3\n"},
        {"docker-compose.yml": "environment:\n  CELERY_WORKER_LOST_WAIT: 3\n"},
    ],
)
def test_where_settings_are(files: dict[str, str], tmp_path: Path) -> None:
    """A setting is found in every place that Celery takes it from, under its old name, too."""
    write(tmp_path, files)
    assert {"worker_lost_wait": "different"} == found(tmp_path, "setting")


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        ("broker_url = 'redis://:secret@h'", "supported", ""),
        ("broker_url = 'zmq://:secret@h'", "different", "zmq:// is not served"),
        ("broker_url = 'emq://h'", "supported", ""),
        ("broker_url = f'emq://{host}'", "supported", ""),
        ("broker_url = os.environ.get('B', 'amqp://')", "supported", ""),
        ("result_backend = 'redis://h'", "supported", ""),
        ("result_backend = 'mongodb://h'", "unsupported", "mongodb"),
        ("result_backend = 'rpc://'", "supported", ""),
        ("worker_pool = 'gevent'", "unsupported", "gevent"),
        ("s3_bucket = 'b'", "unsupported", "no such result backend"),
        ("worker_lost_wait = 3", "different", "without effect"),
        ("accept_content = ['json']", "different", "JSON"),
        ("task_acks_late = True", "supported", ""),
        ("CELERY_ACKS_LATE = True", "supported", ""),
    ],
)
def test_what_settings_come_to(line: str, status: str, reason: str, tmp_path: Path) -> None:
    """The tables of settings decide, and for some the value; a password is never repeated."""
    write(tmp_path, {"celeryconfig.py": f"import os\n{line}\n"})
    (one,) = [one for one in findings(tmp_path) if one.kind == "setting"]
    assert status == one.status
    assert reason in one.reason
    assert "secret" not in one.reason


def test_a_setting_that_there_is_not(tmp_path: Path) -> None:
    """A name that is no setting is told with the nearest."""
    write(tmp_path, {"a.py": APP + "app.conf.task_acks_lat = True\n"})
    (one,) = [one for one in findings(tmp_path) if one.kind == "setting"]
    assert ("different", True) == (one.status, "is task_acks_late meant?" in one.reason)


@pytest.mark.parametrize(
    "line",
    [
        "app.conf.update(load())",
        "app.conf.update(**load())",
        "app.conf[name] = 3",
        "app.config_from_object(load())",
        "app.config_from_envvar('X')",
        "app.conf.broker_url = load()",
    ],
)
def test_what_is_computed_is_not_seen(line: str, tmp_path: Path) -> None:
    """Settings that are only known at run time are said not to be seen."""
    write(tmp_path, {"a.py": APP + line + "\n"})
    assert "not seen" in {one.status for one in findings(tmp_path)}


def test_options_of_a_schedule(tmp_path: Path) -> None:
    """The options in a beat entry are options of a publish."""
    source = "app.conf.beat_schedule = {'x': {'task': 't', 'options': {'queue': 'q', 'nonsense': 1}}}\n"
    write(tmp_path, {"a.py": APP + source})
    assert {"apply_async(queue=)": "supported", "apply_async(nonsense=)": "unsupported"} == found(
        tmp_path, "call"
    )
