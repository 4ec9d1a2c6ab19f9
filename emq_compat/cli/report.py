"""``emq-compat report``: what a bug report should say of the installation, with secrets hidden."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import click
import zmq

from emq_compat import __version__
from emq_compat.cli.as_json import json_option, tell
from emq_compat.cli.connection import Connection, load_app, talks_to_broker
from emq_compat.client import Client
from emq_compat.errors import EmqError
from emq_compat.shim.app import Celery
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.table import printable
from emq_compat.words import amount

if TYPE_CHECKING:
    from kombu.connection import Connection as KombuConnection

__all__ = ["hidden", "report"]

#: How long the broker may take to say how it is.
_BROKER_S = 2.0
_LIBRARIES = (
    "pyzmq", "kombu", "click", "croniter", "psutil",
    "celery", "eventmq", "redis", "SQLAlchemy", "amqp", "watchfiles",
)  # fmt: skip
_SECRET_NAME = re.compile(
    r"pass|secret|token|credential|api_?key|access_key|security_key|auth_kwargs", re.IGNORECASE
)
_PASSWORD_IN_URL = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^/@\s:]*):[^/\s]*@", re.IGNORECASE)
_VARIABLE = re.compile(r"(EMQ|EVENTMQ|CELERY|C_FORCE|REMAP)_")
_HIDDEN = "(hidden)"


@click.command()
@json_option("Print it as one JSON object of lists of lines.")
@talks_to_broker
def report(connection: Connection, as_json: bool) -> None:
    """Print versions, settings and the broker's state, for a bug report.

    Passwords and keys are hidden; names of hosts, tasks and queues are not: read it before you send it.
    """
    sections = {
        "Versions": _versions(),
        "Environment": _environment(os.environ),
        "App": _app(connection),
        "Broker": _broker(connection),
    }
    if as_json:
        tell({heading.lower(): list(lines) for heading, lines in sections.items()})
        return
    for heading, lines in sections.items():
        click.echo(f"{heading}:")
        for line in lines:
            click.echo(f"  {printable(line)}")


def hidden(name: str, value: Any) -> Any:
    """Return ``value`` as it may be shown: without what its name, or a URL in it, tells to be secret."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if _SECRET_NAME.search(name):
        return _HIDDEN if value else value
    if isinstance(value, str):
        return _PASSWORD_IN_URL.sub(rf"\g<before>:{_HIDDEN}@", value)
    if isinstance(value, Mapping):
        return {key: hidden(str(key), item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [hidden("", item) for item in value]
    return value


def _versions() -> Iterator[str]:
    yield f"emq-compat {__version__}"
    yield f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})"
    yield f"{platform.platform()}, {amount(os.cpu_count() or 1, 'CPU')}"
    yield f"libzmq {zmq.zmq_version()}, CURVE {'yes' if zmq.has('curve') else 'no'}"
    for library in _LIBRARIES:
        try:
            yield f"{library} {version(library)}"
        except PackageNotFoundError:
            continue


def _environment(environ: Mapping[str, str]) -> Iterator[str]:
    found = sorted(name for name in environ if _VARIABLE.match(name))
    for name in found:
        yield f"{name}={hidden(name, environ[name])}"
    if not found:
        yield "nothing that concerns emq-compat"


def _app(connection: Connection) -> Iterator[str]:
    if not connection.app_name:
        yield "none (-A)"
        return
    try:
        app = load_app(connection.app_name)
    except EmqError as exc:
        yield str(exc)
        return
    yield f"{connection.app_name}: {app.main or 'no name'}, {amount(len(app.tasks.own()), 'task')}"
    yield from _settings(app)


def _settings(app: Celery) -> Iterator[str]:
    for name, value in sorted(app.conf.changes.items()):
        yield f"{name} = {hidden(name, value)!r}"
    for said in (app.problems, app.conf.settle):
        try:
            yield from said() or ()
        except ImproperlyConfigured as exc:
            yield f"a worker refuses to start: {exc}"


def _broker(connection: Connection) -> Iterator[str]:
    try:
        yield str(hidden("", connection.url))
        if connection.over_kombu:
            yield from _other_broker(connection)
            return
        if connection.stock:
            yield "a stock eventmq router, which answers no questions"
            return
        with Client(connection.url, timeout_s=_BROKER_S) as client:
            stats = client.ask("stats")
            workers, queues = client.ask("workers"), client.ask("queues")
    except EmqError as exc:
        yield str(hidden("", str(exc)))
        return
    for name, value in stats.items():
        yield f"{name} = {value}"
    yield f"{amount(len(workers), 'worker')} in sight, {amount(len(queues), 'queue')}"


def _other_broker(connection: Connection) -> Iterator[str]:
    """What a broker that only kombu reaches says of itself, and who answers there."""
    own = Connection(None, connection.url)  # an app that can't be imported is no matter here
    try:
        with own.kombu(_BROKER_S) as kombu:
            if product := _product(kombu):
                yield product
        with own.app() as app:
            answers = app.control.inspect(timeout=_BROKER_S / 2).ping() or {}
    except Exception as exc:  # noqa: BLE001 - whatever a transport raises
        yield str(hidden("", f"no answer: {str(exc) or type(exc).__name__}"))
        return
    yield f"{amount(len(answers), 'worker')} in sight"


def _product(connection: KombuConnection) -> str:
    """Name and version of the server, where its protocol tells them; else nothing."""
    kind = connection.transport.driver_type
    if kind == "amqp":
        properties = connection.connection.server_properties
        return f"{properties.get('product', 'an AMQP broker')} {properties.get('version', '')}".strip()
    if kind == "redis":
        channel: Any = connection.default_channel
        return f"Redis {channel.client.info('server')['redis_version']}"
    return ""
