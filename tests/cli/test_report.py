"""`emq-compat report`."""

from __future__ import annotations

import json

import pytest

from emq_compat import __version__
from emq_compat.cli.report import hidden
from tests.cli.conftest import Site


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("broker_url", "amqp://guest:geheim@host/v", "amqp://guest:(hidden)@host/v"),
        ("broker_url", "amqp://a:x@h1;amqp://b:y@h2", "amqp://a:(hidden)@h1;amqp://b:(hidden)@h2"),
        ("result_backend", "redis://:p@ss@h/0", "redis://:(hidden)@h/0"),
        ("broker_read_url", ["amqp://a:x@h"], ["amqp://a:(hidden)@h"]),
        ("redis_password", "x", "(hidden)"),
        ("s3_secret_access_key", "x", "(hidden)"),
        ("broker_transport_options", {"sasl_password": "x", "n": 1}, {"sasl_password": "(hidden)", "n": 1}),
        ("redis_password", None, None),
        ("task_acks_late", True, True),
        ("broker_url", "emq://host:47291?keys=/etc/k", "emq://host:47291?keys=/etc/k"),
        ("security_key", "/etc/ssl/key.pem", "(hidden)"),
    ],
)
def test_secrets_are_hidden(name: str, value: object, shown: object) -> None:
    """Passwords in URLs and values of secret names are hidden wherever they stand; the rest is shown."""
    assert shown == hidden(name, value)


@pytest.mark.integration
def test_report_shows_versions_settings_and_broker(site: Site) -> None:
    """Versions, changed settings, misspelt ones and the broker's state are there, and no password."""
    with (site.folder / "proj.py").open("a") as file:
        file.write("\napp.conf.update(redis_password='geheim', task_acks_lates=True, result_backend='sentinel://')\n")
    site.start_broker()
    env = {"CELERY_BROKER_URL": "amqp://u:geheim@h//", "EMQ_KEYS": ""}

    text = site.emq("report", "-A", "proj", "-b", site.url, env=env)

    assert f"emq-compat {__version__}" in text
    assert "pyzmq " in text
    assert "proj: proj, 4 tasks" in text
    assert "redis_password = '(hidden)'" in text
    assert "unknown setting task_acks_lates: is task_acks_late meant?" in text
    assert "a worker refuses to start: setting result_backend is 'sentinel://': Redis Sentinel" in text
    assert "CELERY_BROKER_URL=amqp://u:(hidden)@h//" in text
    assert "published = 0" in text
    assert "geheim" not in text
    told = site.emq("report", "-A", "proj", "-b", site.url, "--json", env=env)
    assert "geheim" not in told
    sections = json.loads(told)
    assert ["versions", "environment", "app", "broker"] == list(sections)
    assert f"emq-compat {__version__}" == sections["versions"][0]
    assert "published = 0" in sections["broker"]


@pytest.mark.integration
def test_report_goes_on_without_broker_and_app(site: Site) -> None:
    """A broker that is away and an app that can't be imported are lines of the report, not errors."""
    text = site.emq("report", "-A", "nothere", "-b", site.url)
    assert "there is no module 'nothere'" in text
    assert f"127.0.0.1:{site.ports[0]}" in text
    stock = site.emq("report", "-b", "tcp://127.0.0.1:1024")
    assert "a stock eventmq router" in stock


@pytest.mark.integration
@pytest.mark.parametrize(("service", "product"), [("amqp_url", "RabbitMQ "), ("redis_url", "Redis ")])
def test_report_names_another_broker(
    site: Site, request: pytest.FixtureRequest, service: str, product: str
) -> None:
    """Of RabbitMQ and Redis it says which version answers, and how many workers do."""
    url: str = request.getfixturevalue(service)
    told = json.loads(site.emq("report", "-b", url, "--json"))["broker"]
    assert told[1].startswith(product)
    assert told[1].removeprefix(product)[0].isdigit()
    assert told[2].endswith("in sight")


@pytest.mark.integration
@pytest.mark.parametrize("scheme", ["amqp://u:geheim@", "redis://:geheim@"])
def test_report_says_that_another_broker_is_away(site: Site, scheme: str) -> None:
    """One that doesn't answer is a line of the report, without its password."""
    told = json.loads(site.emq("report", "-b", f"{scheme}127.0.0.1:1", "--json"))["broker"]
    assert 2 == len(told)
    assert told[1].startswith("no answer: ")
    assert "geheim" not in str(told)
