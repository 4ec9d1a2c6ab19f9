"""app.conf: names, layers, sources, and what is odd in them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.client import Client
from emq_compat.shim.exceptions import CeleryWarning, ImproperlyConfigured
from emq_compat.shim.settings import Settings
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
    """Under a namespace an old spelling is taken, a typing mistake isn't, and problems() names both."""
    app = Celery("p")

    app.config_from_object(
        SimpleNamespace(
            CELERYBEAT_SCHEDULE={"a": 1},
            CELERY_TASK_DEFAULT_QUEU="x",
            CELERY_ACKS_LATE=False,
            CELERY_TASK_ACKS_LATE=True,
        ),
        namespace="CELERY",
    )

    told = app.conf.problems()
    assert "unknown setting CELERYBEAT_SCHEDULE: the old name of CELERY_BEAT_SCHEDULE, taken as that" in told
    both = "the old name of CELERY_TASK_ACKS_LATE, which is there, too, and counts"
    assert f"unknown setting CELERY_ACKS_LATE: {both}" in told
    assert "unknown setting CELERY_TASK_DEFAULT_QUEU: is CELERY_TASK_DEFAULT_QUEUE meant?" in told
    assert ({"a": 1}, "celery") == (app.conf.beat_schedule, app.conf.task_default_queue)
    assert app.conf.task_acks_late
    assert ("x", "x") == (app.conf.CELERY_TASK_DEFAULT_QUEU, app.conf.task_default_queu)


def test_a_module_s_own_names_are_no_mistake_but_misspelt_settings_are(module: WriteModule) -> None:
    """Without a namespace a module may hold anything; a name that nearly is a setting's is told."""
    module("conf_mod2", "import os\nhome = '/x'\ntask_acks_lat = True\n")
    app = Celery("p")
    app.config_from_object("conf_mod2")

    assert "/x" == app.conf.home
    assert ["unknown setting task_acks_lat: is task_acks_late meant?"] == app.conf.problems()


def test_mixing_old_and_new_names_is_refused() -> None:
    """Celery 3 names and new ones in one source are an ImproperlyConfigured that says what to rename."""
    app = Celery("p")
    app.config_from_object({"CELERY_ACKS_LATE": True, "task_default_queue": "q"})
    with pytest.raises(ImproperlyConfigured, match="CELERY_ACKS_LATE -> task_acks_late"):
        _ = app.conf.task_acks_late

    app.config_from_object({"CELERY_ACKS_LATE": True, "BROKER_URL": "emq://h", "task_default_queue": "q"})
    with pytest.raises(ImproperlyConfigured, match="task_default_queue -> CELERY_DEFAULT_QUEUE"):
        _ = app.conf.task_acks_late

    app.config_from_object({"CELERY_ACKS_LATE": True, "task_acks_late": False})
    assert not app.conf.task_acks_late


def test_what_code_sets_wins_over_what_was_read_and_over_arguments(module: WriteModule) -> None:
    """Celery(broker=) and what is assigned before the first read win over config_from_object."""
    app = Celery("p", broker="emq://argument")
    app.config_from_object({"broker_url": "emq://read", "task_time_limit": 1, "task_soft_time_limit": 1})
    app.add_defaults({"task_soft_time_limit": 7, "own": 7})
    app.conf.task_time_limit = 2

    assert ("emq://argument", 2) == (app.conf.broker_url, app.conf.task_time_limit)
    assert (1, 7) == (app.conf.task_soft_time_limit, app.conf.own)
    app.conf.task_soft_time_limit = 5
    app.config_from_object({"task_time_limit": 9, "task_soft_time_limit": 9})
    assert ("emq://argument", 2, 7) == (app.conf.broker_url, app.conf.task_time_limit, app.conf.own)
    assert 9 == app.conf.task_soft_time_limit


def test_settings_are_read_when_they_are_first_needed(module: WriteModule) -> None:
    """config_from_object imports nothing until a setting is asked for (not set), or force is given."""
    app = Celery("p")
    app.config_from_object("missing_settings_module")
    app.conf.task_time_limit = 3
    app.conf.update(task_soft_time_limit=2)
    assert not app.configured

    with pytest.raises(ModuleNotFoundError):
        _ = app.conf.task_time_limit
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
    app.conf.update(task_acks_late="yes", broker_pool_acquire_timeout=9, broker_channel_error_retry=True)
    app.conf.update(no_such_setting=1, worker_lost_wait=10.0)

    told = app.conf.problems()

    assert "setting task_acks_late is 'yes'; a flag is expected" in told
    assert any(
        line.startswith("settings broker_pool_acquire_timeout, broker_channel_error_retry have no")
        for line in told
    )
    assert any(line.startswith("unknown setting no_such_setting") for line in told)
    assert 3 == len(told)


def test_numbers_written_as_text_are_taken_and_told() -> None:
    """settle() makes numbers of texts that are plainly meant so, and problems() tells each once."""
    conf = Celery("p").conf
    conf.update(task_time_limit="60", worker_soft_shutdown_timeout="0.5", result_expires="3600")
    before = conf.problems()

    conf.settle()
    conf.settle()

    assert (60, 0.5, 3600) == (
        conf.task_time_limit, conf.worker_soft_shutdown_timeout, conf.result_expires,
    )  # fmt: skip
    assert before == conf.problems()
    assert "setting task_time_limit is the text '60'; taken as the number 60" in before
    assert 3 == len(before)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("worker_concurrency", "two", "a number"),
        ("task_time_limit", "nan", "a number"),
        ("task_time_limit", [], "a number"),
        ("task_publish_retry_policy", "x", "a mapping"),
        ("task_default_rate_limit", "fast", "/s, /m or /h"),
        ("result_expires", "x", "seconds"),
        ("result_backend", "sentinel://", "redis://"),
        ("result_backend", 5, "an address"),
        ("task_queues", 5, "a list of queues"),
        ("accept_content", 5, "a list"),
        ("worker_log_format", "%(nope", "a format of logging"),
        ("worker_redirect_stdouts_level", "LOUD", "a level's name"),
    ],
)
def test_what_a_worker_cannot_use_is_refused(name: str, value: object, expected: str) -> None:
    """settle() names the setting, its value and what is expected."""
    conf = Celery("p").conf
    conf[name] = value

    with pytest.raises(ImproperlyConfigured) as caught:
        conf.settle()

    assert [True] * 3 == [part in str(caught.value) for part in (name, repr(value), expected)]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("timezone", "Europe/Berlim", "'Europe/Berlim': there is no such zone: is 'Europe/Berlin' meant?"),
        ("accept_content", ["json", "jsn"], "there is no serializer 'jsn': is 'json' meant?"),
        ("task_serializer", "pickl", "there is no serializer 'pickl': is 'pickle' meant?"),
        ("task_default_priority", 20, "20; 0 to 9 is expected"),
        ("task_annotations", {"*": {"rate_limt": 1, "own": 2}}, "'rate_limt': is 'rate_limit' meant?"),
        ("task_routes", {"a": {"qeue": "x", "priority": 1}}, "'qeue': is 'queue' meant?"),
    ],
)
def test_values_that_name_nothing_are_told(name: str, value: object, told: str) -> None:
    """A worker says what a value names that there isn't, and the nearest that there is."""
    app = Celery("p")
    app.conf[name] = value

    (line,) = app.problems()

    assert line.startswith((f"setting {name}", name))
    assert line.endswith(told)


def test_values_that_name_something_are_not_told() -> None:
    """Zones, serializers, options, own attributes and decorators of methods that there are pass."""
    app = Celery("p")
    app.conf.update(
        timezone="Europe/Berlin",
        accept_content=["json", "pickle", "application/x-yaml"],
        task_serializer="pickle",
        task_annotations={"*": {"rate_limit": 1, "@run": repr}, "a": {"tenant": "x"}},
        task_routes={"a": {"queue": "x", "exchange": "y", "delivery_mode": 1}, "b.*": "q"},
    )
    assert [] == app.problems()


def test_what_was_set_is_listed_with_secrets_masked() -> None:
    """table() and humanize() show what was set, or all with_defaults, and mask passwords and keys."""
    app = Celery("p", broker="emq://user:hidden@h")
    app.config_from_object({"redis_password": "hidden", "api_key": "hidden", "task_queues": {"a": {}}})
    conf = app.conf
    conf.broker_transport_options = {"password": "hidden", "region": "eu"}

    shown = conf.humanize()
    assert "hidden" not in shown
    assert "hidden" not in str(conf.table(with_defaults=True))
    assert "broker_url: 'emq://user:********@h'" in shown
    assert {"password": "********", "region": "eu"} == conf.table()["broker_transport_options"]
    assert "emq://user:hidden@h" == conf.table(censored=False)["broker_url"]
    assert "task_time_limit" not in conf.table()
    assert "task_time_limit" in conf.table(with_defaults=True)


def test_settings_are_found_by_a_part_of_their_name() -> None:
    """find_option, get_by_parts and find_value_for_key look settings up by their parts, as in Celery."""
    conf = Celery("p").conf

    found = conf.find_option("prefetch_multiplier")
    assert ("worker", "prefetch_multiplier", "number", 4) == (*found[:2], found.type.type, found.type.default)
    assert 4 == conf.get_by_parts("worker", "prefetch_multiplier")
    assert 4 == conf.find_value_for_key("prefetch_multiplier")
    assert conf.find_value_for_key("timezone") is None
    with pytest.raises(KeyError):
        conf.find_option("no_such")
    conf.task_time_limit = 3
    assert (True, False) == (conf.value_set_for("task_time_limit"), conf.value_set_for("task_acks_late"))
    assert {"task_time_limit": 3} == dict(conf.without_defaults())
    assert 3 == conf.first("task_soft_time_limit", "task_time_limit")


def test_settings_come_from_a_command_line() -> None:
    """config_from_cmdline reads name=value, with the setting's own type or one that is told."""
    app = Celery("p")

    app.config_from_cmdline(
        ["worker.prefetch_multiplier=1", "task_acks_late=yes", "task_queues=(json)[1]", ".own=(float)2"]
    )

    conf = app.conf
    values = (conf.worker_prefetch_multiplier, conf.task_acks_late, conf.task_queues, conf.celery_own)
    assert (1, True, [1], 2.0) == values
    with pytest.raises(ValueError, match="task_acks_late: 'maybe' is neither true nor false"):
        app.config_from_cmdline(["task_acks_late=maybe"])
    with pytest.raises(ValueError, match="no name=value"):
        app.config_from_cmdline(["task_acks_late"])


def test_who_waits_for_the_settings_is_told() -> None:
    """on_configure comes before they are read, on_after_configure after, and lazy defaults are read then."""
    app = Celery("p")
    told = []

    @app.on_configure.connect
    def before(sender: Celery, **_: object) -> None:
        told.append(("before", sender.configured))
        sender.config_from_object({"task_default_queue": "q"})

    @app.on_after_configure.connect
    def after(sender: Celery, source: Settings, **_: object) -> None:
        told.append(("after", source.task_default_queue, source.own))

    app.add_defaults(lambda: {"own": 1})
    assert [] == told
    assert "q" == app.conf.task_default_queue
    assert [("before", False), ("after", "q", 1)] == told


def test_the_app_s_zone_is_the_setting_s_else_utc_or_this_machine_s() -> None:
    """timezone names a zone, Django's TIME_ZONE stands in for it; without one enable_utc decides."""
    app = Celery("p")
    assert (timezone.utc, True) == (app.timezone, app.uses_utc_timezone())
    app.conf.enable_utc = False
    assert not app.uses_utc_timezone()
    assert datetime.now().astimezone().utcoffset() == app.now().utcoffset()
    app.config_from_object({"CELERY_TASK_ACKS_LATE": True, "TIME_ZONE": "Europe/Oslo"}, namespace="CELERY")
    assert "Europe/Oslo" == app.conf.timezone
    assert str(app.timezone) == "Europe/Oslo" == str(app.now().tzinfo)


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


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:p,ass@word@h:6379/0", "redis://:********@h:6379/0"),
        ("redis://user:a/b@h/0", "redis://user:********@h/0"),
        ("sentinel://:s1@h1:1;sentinel://:s2@h2:1/0", "sentinel://:********@h1:1;sentinel://:********@h2:1/0"),
        ("cache+memcached://h1:1;h2:1/", "cache+memcached://h1:1;h2:1/"),
    ],
)
def test_a_password_in_an_address_is_masked_whatever_it_holds(url: str, shown: str) -> None:
    """Also one with characters that should have been percent-encoded, and in each of several addresses."""
    conf = Settings({"result_backend": url})
    assert {"result_backend": shown} == conf.table()


def test_which_old_names_were_read_is_known() -> None:
    """inspect().conf() tells of them."""
    conf = Settings()
    conf.load({"CELERY_ACKS_LATE": True})
    assert ["CELERY_ACKS_LATE"] == conf.deprecated_settings
    assert Settings({"task_acks_late": True}).deprecated_settings is None


def test_a_whole_configuration_of_flask(app: Celery) -> None:
    """Of names in capitals only those are told that look like Celery's, however they were given."""
    config = {"DEBUG": True, "SECRET_KEY": "x", "SESSION_COOKIE_NAME": "y", "CELERY_ACKS_LATE": True}
    wrong = {"CELERY_ACKS_LAET": 1, "TASK_ACKS_LAET": 1}

    app.conf.update({**config, **wrong})
    other = Celery("other", set_as_current=False)
    other.config_from_object({**config, **wrong})

    told = [
        "unknown setting CELERY_ACKS_LAET: is task_acks_late meant?",
        "unknown setting TASK_ACKS_LAET: is task_acks_late meant?",
    ]
    assert (told, told) == (app.conf.problems(), other.conf.problems())
    assert (True, True) == (app.conf.task_acks_late, other.conf.task_acks_late)
