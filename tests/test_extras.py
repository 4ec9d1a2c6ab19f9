"""What says that a package is missing that a broker or a result store needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from emq_compat.celery_shim import Celery
from emq_compat.cli.main import cli
from emq_compat.errors import ConfigurationError
from emq_compat.extras import require_for_broker
from emq_compat.leading.redis import RedisLedger
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.upstream.kombu_connection import Broker

pytestmark = [pytest.mark.unit]

#: A broker's address, and what is said where nothing but kombu is installed.
BROKERS = {
    "redis://localhost:1": "redis://… needs redis and packaging: pip install 'emq-compat[redis]'",
    "rediss://localhost:1": "rediss://… needs redis and packaging: pip install 'emq-compat[redis]'",
    "sentinel://h:1;sentinel://i": "sentinel://… needs redis and packaging: pip install 'emq-compat[redis]'",
    "sqs://": "sqs://… needs boto3 and urllib3: pip install 'emq-compat[sqs]'",
    "sqla+sqlite://": "sqla+sqlite://… needs sqlalchemy: pip install 'emq-compat[sqlalchemy]'",
    "mongodb://localhost:1": "mongodb://… needs pymongo: pip install 'kombu[mongodb]'",
    "azureservicebus://": "azureservicebus://… needs azure.servicebus: pip install 'kombu[azureservicebus]'",
}
STORES = {
    "redis://localhost:1": "redis://… needs redis: pip install 'emq-compat[redis]'",
    "db+sqlite://": "db+… needs sqlalchemy: pip install 'emq-compat[sqlalchemy]'",
    "cache+memcached://localhost:1": "cache+memcached://… needs pymemcache: pip install 'pymemcache'",
}
OPTIONAL = {"redis", "packaging", "boto3", "urllib3", "sqlalchemy", "pymongo", "azure", "pymemcache"}


@pytest.fixture
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without any extra, as far as ``find_spec`` tells."""
    real: Callable[..., ModuleSpec | None] = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        top, _, inner = name.partition(".")
        if top in OPTIONAL and inner:
            raise ModuleNotFoundError(f"No module named {top!r}")
        return None if top in OPTIONAL else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def test_what_is_there_is_not_asked_for() -> None:
    """Where the packages are installed, and for brokers that need none, nothing is said."""
    for url in ("redis://localhost", "sqs://", "amqp://localhost", "filesystem://", "sqla+sqlite://"):
        require_for_broker(url)


@pytest.mark.usefixtures("_bare")
@pytest.mark.parametrize(("url", "says"), BROKERS.items())
def test_a_broker_without_its_package(url: str, says: str) -> None:
    """delay() raises ImproperlyConfigured, a worker's upstream ConfigurationError: what to install."""
    app = Celery("bare", broker=url, set_as_current=False)
    add = app.task(name="add")(lambda: None)
    with pytest.raises(ImproperlyConfigured) as raised:
        add.delay()
    assert says == str(raised.value)
    with pytest.raises(ConfigurationError) as refused:
        Broker("w", SimpleNamespace(url=url))  # type: ignore[arg-type]
    assert says == str(refused.value)


@pytest.mark.usefixtures("_bare")
@pytest.mark.parametrize(("url", "says"), STORES.items())
def test_a_result_store_without_its_package(url: str, says: str) -> None:
    """Asking for results raises ImproperlyConfigured: what to install."""
    app = Celery("bare", broker="memory://", backend=url, set_as_current=False)
    with pytest.raises(ImproperlyConfigured) as raised:
        app.AsyncResult("x").get(timeout=1)
    assert says == str(raised.value)


@pytest.mark.usefixtures("_bare")
def test_a_lock_of_beats_without_its_package() -> None:
    """A beat that is to lead by Redis says it, too."""
    with pytest.raises(ConfigurationError, match=r"lock for beats .* needs redis: pip install 'emq-compat\["):
        RedisLedger.at("redis://localhost:1", "s", "me", 1.0)


@pytest.mark.usefixtures("_bare")
@pytest.mark.parametrize("command", ["call add", "status", "health", "inspect ping"])
def test_commands_say_it_in_one_line(command: str) -> None:
    """A command line that names such a broker ends with 1, in one line."""
    name, *words = command.split()
    done = CliRunner().invoke(cli, [name, "-b", "redis://localhost:1", *words])
    assert BROKERS["redis://localhost:1"] in done.output
    assert (1, 1) == (done.exit_code, len(done.output.strip().splitlines()))
