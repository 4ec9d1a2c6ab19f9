"""Configurations refuse what can't work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emq_compat.config import BrokerConfig, WorkerConfig, default_data_dir
from emq_compat.errors import ConfigurationError

pytestmark = pytest.mark.unit


def test_default_data_folder() -> None:
    """The data folder is the user's own: XDG_DATA_HOME if it is absolute, else ~/.local/share."""
    assert Path("/data/emq-compat") == default_data_dir({"XDG_DATA_HOME": "/data"})
    assert Path.home() / ".local/share/emq-compat" == default_data_dir({})
    assert Path.home() / ".local/share/emq-compat" == default_data_dir({"XDG_DATA_HOME": "data"})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"durability": "some"}, "--durability 'some' is unknown; known: full, normal"),
        ({"dead_after_s": 0}, "--dead-after is 0"),
        ({"max_redeliveries": -1}, "--max-redeliveries is -1"),
        ({"result_expires_s": float("nan")}, "--result-expires is nan"),
        ({"frontend": "127.0.0.1:5"}, "--frontend '127.0.0.1:5' is no endpoint"),
        ({"backend": "tcp://127.0.0.1:47291"}, "endpoints are the same"),
        ({"frontend": "tcp://0.0.0.0:47291"}, r"tcp://0\.0\.0\.0:47291 is open.*--keys DIR.*--insecure"),
        ({"publish_out": "tcp://*:9"}, "--publish-out .* is open"),
    ],
)
def test_broker_refuses(values: dict[str, Any], says: str) -> None:
    """A broker's wrong option is named with what it may be."""
    with pytest.raises(ConfigurationError, match=says):
        BrokerConfig(**values)


@pytest.mark.parametrize("values", [{"insecure": True}, {"keys_dir": Path("/k")}, {}])
def test_broker_accepts(values: dict[str, Any]) -> None:
    """Other machines are let in with keys, or when the user insists."""
    frontend = "tcp://0.0.0.0:47291" if values else "tcp://127.0.0.1:47291"

    assert frontend == BrokerConfig(frontend=frontend, **values).frontend


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"pool": "eventlet"}, "--pool 'eventlet' is unknown; known: prefork"),
        ({"concurrency": -1}, "--concurrency is -1"),
        ({"time_limit_s": 0}, "--time-limit is 0"),
        ({"queues": ((10, ""),)}, "needs a name"),
    ],
)
def test_worker_refuses(values: dict[str, Any], says: str) -> None:
    """A worker's wrong option is named with what it may be."""
    with pytest.raises(ConfigurationError, match=says):
        WorkerConfig(**values)


def test_queues_of_a_worker() -> None:
    """A worker listens on the queues it is given, else on the program's default, less the excluded ones."""
    assert ((10, "celery"),) == WorkerConfig().listens_to("celery")
    both = WorkerConfig(queues=((1, "a"), (2, "b")), exclude_queues=frozenset({"a"}))
    assert ((2, "b"),) == both.listens_to("celery")


def test_slots() -> None:
    """Concurrency is the number of CPUs unless it is given."""
    assert 3 == WorkerConfig(concurrency=3).slots
    assert WorkerConfig().slots >= 1
