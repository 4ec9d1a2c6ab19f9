"""app.conf: names, layers, sources, and what is odd in them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.client import Client
from emq_compat.shim.exceptions import CeleryWarning, ImproperlyConfigured
from tests.shim.recorder import Recorder

pytestmark = pytest.mark.unit

WriteModule = Callable[[str, str], None]


def test_a_setting_has_a_default_and_can_be_set_by_attribute_item_and_update() -> None:
    """Settings are read and written in lower case, as attributes, as items and by update()."""
    conf = Celery("p").conf

    assert "celery" == conf.task_default_queue
    conf.task_default_queue = "a"
    conf["task_acks_late"] = True
    conf.update(task_time_limit=5)

    assert ("a", True, 5) == (conf["task_default_queue"], conf.task_acks_late, conf.task_time_limit)
    assert "task_time_limit" in conf
    del conf["task_time_limit"]
    assert conf.task_time_limit is None


def test_old_upper_case_names_mean_the_new_ones() -> None:
    """A name of Celery 3, and a new one in capitals, reach the same setting."""
    conf = Celery("p").conf

    conf["CELERY_ACKS_LATE"] = True
    conf["TASK_DEFAULT_QUEUE"] = "x"

    assert (True, "x", True) == (conf.task_acks_late, conf.task_default_queue, conf.CELERY_ACKS_LATE)


def test_an_unknown_setting_raises_and_names_the_nearest() -> None:
    """Reading a setting that there is not is an AttributeError or a KeyError; the nearest name is told."""
    conf = Celery("p").conf

    with pytest.raises(AttributeError, match="is task_acks_late meant"):
        _ = conf.task_acks_lat
    with pytest.raises(KeyError):
        _ = conf["no_such"]
    assert conf.get("no_such", 3) == 3


@pytest.mark.parametrize("form", ["module", "attribute", "object", "mapping"])
def test_settings_come_from_a_module_an_object_or_a_mapping(form: str, module: WriteModule) -> None:
    """config_from_object takes a module's name, an attribute of it, an object, or a mapping."""
    module("conf_mod", "task_default_queue = 'q'\nclass Inner:\n    task_default_queue = 'q'\n")
    source: object = {
        "module": "conf_mod",
        "attribute": "conf_mod:Inner",
        "object": SimpleNamespace(task_default_queue="q"),
        "mapping": {"task_default_queue": "q"},
    }[form]
    app = Celery("p")

    app.config_from_object(source)

    assert "q" == app.conf.task_default_queue


def test_with_a_namespace_only_prefixed_names_count() -> None:
    """namespace='CELERY' takes CELERY_TASK_DEFAULT_QUEUE and leaves other names alone."""
    app = Celery("p")

    app.config_from_object(
        SimpleNamespace(CELERY_TASK_DEFAULT_QUEUE="n", CELERY_BROKER_URL="emq://h", task_time_limit=3),
        namespace="CELERY",
    )

    assert ("n", "emq://h") == (app.conf.task_default_queue, app.conf.broker_url)
    assert app.conf.task_time_limit is None
    assert [] == app.conf.problems()


def test_a_namespace_tells_old_spellings_and_misspelt_names() -> None:
    """Under a namespace an old spelling and a typing mistake are unused, and problems() names both."""
    app = Celery("p")

    app.config_from_object(
        SimpleNamespace(CELERYBEAT_SCHEDULE={}, CELERY_TASK_DEFAULT_QUEU="x"), namespace="CELERY"
    )

    told = "\n".join(app.conf.problems())
    assert "CELERYBEAT_SCHEDULE: is beat_schedule meant?" in told
    assert "CELERY_TASK_DEFAULT_QUEU: is task_default_queue meant?" in told
    assert "celery" == app.conf.task_default_queue


def test_a_module_s_own_names_are_no_mistake_but_misspelt_settings_are(module: WriteModule) -> None:
    """Without a namespace a module may hold anything; a name that nearly is a setting's is told."""
    module("conf_mod2", "import os\nhome = '/x'\ntask_acks_lat = True\n")
    app = Celery("p")
    app.config_from_object("conf_mod2")

    assert "/x" == app.conf.home
    assert ["unknown setting task_acks_lat: is task_acks_late meant?"] == app.conf.problems()


def test_mixing_old_and_new_names_is_refused() -> None:
    """Celery 3 names and new ones in one source are an ImproperlyConfigured that names a pair."""
    app = Celery("p")
    app.config_from_object({"CELERY_ACKS_LATE": True, "task_default_queue": "q"})

    with pytest.raises(ImproperlyConfigured, match="CELERY_ACKS_LATE is task_acks_late now"):
        _ = app.conf.task_acks_late


def test_what_code_sets_wins_over_what_was_read_and_over_arguments(module: WriteModule) -> None:
    """An assignment wins over config_from_object, and that over Celery(broker=)."""
    app = Celery("p", broker="emq://argument", backend="emq://argument")
    app.config_from_object({"broker_url": "emq://read", "task_time_limit": 1})
    app.conf.task_time_limit = 2

    assert ("emq://read", 2) == (app.conf.broker_url, app.conf.task_time_limit)
    assert "emq://argument" == app.conf.result_backend
    app.config_from_object({"task_time_limit": 9})
    assert 2 == app.conf.task_time_limit
    assert "emq://argument" == app.conf.broker_url


def test_settings_are_read_when_they_are_first_needed(module: WriteModule) -> None:
    """config_from_object imports nothing until a setting is asked for, or force is given."""
    app = Celery("p")
    app.config_from_object("missing_settings_module")

    with pytest.raises(ModuleNotFoundError):
        _ = app.conf
    with pytest.raises(ModuleNotFoundError):
        app.config_from_object("missing_settings_module", force=True)
    app.config_from_object("missing_settings_module", silent=True)
    assert "celery" == app.conf.task_default_queue


def test_an_environment_variable_may_name_the_module(
    module: WriteModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """config_from_envvar reads the module that the variable names, and says whether it names one."""
    module("conf_env", "task_default_queue = 'e'\n")
    app = Celery("p")

    assert not app.config_from_envvar("EMQ_TEST_CONF", silent=True)
    with pytest.raises(ImproperlyConfigured, match="EMQ_TEST_CONF"):
        app.config_from_envvar("EMQ_TEST_CONF")
    monkeypatch.setenv("EMQ_TEST_CONF", "conf_env")
    assert app.config_from_envvar("EMQ_TEST_CONF")
    assert "e" == app.conf.task_default_queue


def test_values_of_a_wrong_kind_and_settings_without_effect_are_told() -> None:
    """problems() tells a text where a flag is due, and settings that this release does nothing about."""
    app = Celery("p")
    app.conf.update(task_acks_late="yes", task_routes={"a": {"queue": "b"}}, result_backend="redis://h")
    app.conf.no_such_setting = 1

    told = app.conf.problems()

    assert "setting task_acks_late is 'yes'; a flag is expected" in told
    assert any(line.startswith("setting task_routes has no effect") for line in told)
    assert any(line.startswith("setting result_backend has no effect") for line in told)
    assert any(line.startswith("unknown setting no_such_setting") for line in told)
    assert 4 == len(told)


@pytest.mark.parametrize(
    ("environment", "settings", "expected"),
    [
        ({}, {}, "emq://127.0.0.1:47291"),
        ({"EMQ_BROKER_ADDR": "emq://a"}, {}, "emq://a"),
        ({"EMQ_BROKER_ADDR": "emq://a"}, {"broker_url": "emq://b"}, "emq://b"),
        ({}, {"broker_url": ["emq://b", "emq://c"]}, "emq://b;emq://c"),
        ({}, {"broker_url": "emq://b", "broker_write_url": "emq://w"}, "emq://w"),
        ({"CELERY_BROKER_URL": "emq://e"}, {"broker_url": "emq://b"}, "emq://e"),
    ],
)
def test_the_broker_s_address_is_celery_s_first_then_eventmq_s(
    environment: dict[str, str],
    settings: dict[str, object],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CELERY_BROKER_URL wins over the settings, as in Celery; EMQ_BROKER_ADDR is the last resort."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert expected == Celery("p", changes=settings).broker_url


def test_a_changed_address_makes_a_new_connection_and_a_given_client_stays(client: Recorder) -> None:
    """Settings may change at any time; a client that was set by hand is kept."""
    app = Celery("p", broker="emq://127.0.0.1:11")
    first = app.client
    app.conf.broker_url = "emq://127.0.0.1:12"
    second = app.client
    app.client = client
    app.conf.broker_url = "emq://127.0.0.1:13"

    assert isinstance(first, Client)
    assert isinstance(second, Client)
    endpoints = [c.addresses[0].client_endpoint for c in (first, second)]
    assert ["tcp://127.0.0.1:11", "tcp://127.0.0.1:12"] == endpoints
    assert client is app.client


def test_connection_settings_reach_the_client() -> None:
    """broker_connection_timeout and broker_pool_limit are the client's limits."""
    app = Celery("p", broker="emq://127.0.0.1:11", changes={"broker_connection_timeout": 1.5})

    assert isinstance(app.client, Client)
    assert 1.5 == app.client.timeout_s


def test_an_unknown_argument_of_celery_is_warned_about() -> None:
    """Celery(brokr=…) warns; arguments of Celery that choose internal parts are taken silently."""
    Celery("p", loader="app", strict_typing=True)
    with pytest.warns(CeleryWarning, match="no argument 'brokr'"):
        Celery("p", brokr="x")
