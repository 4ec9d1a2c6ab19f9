"""Packages that only some brokers and result stores want: whether they are there, and what installs them."""

from __future__ import annotations

import importlib.util
from typing import Final

from emq_compat.errors import ConfigurationError

__all__ = ["require", "require_for_broker"]

_REDIS: Final = (("redis", "packaging"), "emq-compat[redis]")
_SQL: Final = (("sqlalchemy",), "emq-compat[sqlalchemy]")
#: Scheme of a broker's address → modules that kombu's transport imports, and what installs them.
_BROKERS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "azureservicebus": (("azure.servicebus",), "kombu[azureservicebus]"),
    "azurestoragequeues": (("azure.storage.queue",), "kombu[azurestoragequeues]"),
    "confluentkafka": (("confluent_kafka",), "kombu[confluentkafka]"),
    "consul": (("consul",), "kombu[consul]"),
    "etcd": (("etcd",), "python-etcd"),
    "gcpubsub": (("google.cloud.pubsub_v1", "google.cloud.monitoring_v3"), "kombu[gcpubsub]"),
    "librabbitmq": (("librabbitmq",), "kombu[librabbitmq]"),
    "mongodb": (("pymongo",), "kombu[mongodb]"),
    "pyro": (("Pyro4",), "kombu[pyro]"),
    "qpid": (("qpid", "qmf"), "kombu[qpid]"),
    "redis": _REDIS,
    "rediss": _REDIS,
    "sentinel": _REDIS,
    "slmq": (("softlayer_messaging",), "kombu[slmq]"),
    "sqla": _SQL,
    "sqlalchemy": _SQL,
    "sqs": (("boto3", "urllib3"), "emq-compat[sqs]"),
    "zookeeper": (("kazoo",), "kombu[zookeeper]"),
}


def require(what: str, modules: tuple[str, ...], install: str) -> None:
    """Do nothing where modules are there.

    Args:
        what: needs them: ``redis://…``, for instance.
        modules: their names, as they are imported.
        install: what pip installs for them.

    Raises:
        ConfigurationError: one is missing; the message says what to do.
    """
    missing = [module for module in modules if not _is_there(module)]
    if missing:
        raise ConfigurationError(f"{what} needs {' and '.join(missing)}: pip install '{install}'")


def require_for_broker(url: str) -> None:
    """Do nothing where a broker that kombu reaches can be spoken to with what is installed.

    Raises:
        ConfigurationError: as ``require``.
    """
    scheme = url.partition("://")[0].strip().lower()
    modules, install = _BROKERS.get(scheme.partition("+")[0], ((), ""))
    require(f"{scheme}://…", modules, install)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False
    except ValueError:  # a module that something else put in place, without a spec
        return True
