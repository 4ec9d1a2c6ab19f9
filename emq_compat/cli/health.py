"""``emq-compat health``: whether a broker, a worker or a beat lives, or is ready; for probes, in one line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException

import click

from emq_compat.address import DEFAULT_URL, is_kombu
from emq_compat.cli.as_json import json_option, tell
from emq_compat.errors import BrokerRefused, ConfigurationError, EmqError
from emq_compat.ids import plain_name
from emq_compat.monitor.address import HttpAddress

__all__ = ["health"]


@click.command()
@click.option("--live", "page", flag_value="live", help="Whether the loop turns: else start it anew.")
@click.option(
    "--ready", "page", flag_value="ready", default="ready", help="Whether it can do its work. [default]"
)
@click.option("--http", metavar="[HOST:]PORT", help="Ask whoever serves there (its --http).")
@click.option("-b", "--broker", metavar="URL", help="Ask this broker. [default: EMQ_BROKER_ADDR]")
@click.option("-d", "--destination", "node", metavar="NODE", help="Ask this worker or beat, by its broker.")
@click.option(
    "-t",
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1, max=60),
    default=4.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the answer may take.",
)
@json_option()
@click.pass_context
def health(
    context: click.Context,
    page: str,
    http: str | None,
    broker: str | None,
    node: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Tell whether a broker, a worker or a beat is well: one line, and 0 or 1. The project isn't imported."""
    if http is not None and (broker or node):
        raise click.UsageError("--http asks a process itself: without -b and -d")
    url = broker or context.find_root().params.get("broker") or ""
    url = url or os.environ.get("CELERY_BROKER_URL") or os.environ.get("EMQ_BROKER_ADDR") or DEFAULT_URL
    try:
        if http is not None:
            checks = _over_http(HttpAddress.parse(http), page, timeout_s)
        elif is_kombu(url):
            checks = _over_kombu(url, node, timeout_s)
        elif node is not None:
            checks = _of_worker(url, node, timeout_s)
        else:
            checks = _of_broker(url, timeout_s)
    except ConfigurationError as exc:
        raise click.UsageError(str(exc)) from exc
    wrong = [
        why if name == "loop" else f"{name}: {why}"
        for name, why in checks.items()
        if why and (page == "ready" or name == "loop")
    ]
    if as_json:
        tell({"ok": not wrong, "asked": page, "checks": checks})
    elif not context.find_root().params.get("quiet"):
        click.echo(f"not {page}: {'; '.join(wrong)}" if wrong else page)
    sys.exit(1 if wrong else 0)


def _over_http(address: HttpAddress, page: str, timeout_s: float) -> dict[str, str]:
    """Return name of check → what is wrong, as ``/live`` or ``/ready`` tells it."""
    connection = HTTPConnection(*address, timeout=timeout_s)
    try:
        connection.request("GET", f"/{page}")
        document = json.loads(connection.getresponse().read())
        return {name: "" if check["ok"] else check["why"] for name, check in document["checks"].items()}
    except OSError as exc:
        return {"loop": f"no answer from {address}: {exc.strerror or exc}"}
    except (HTTPException, ValueError, KeyError, TypeError):
        return {"loop": f"what answers at {address} is no emq-compat"}
    finally:
        connection.close()


def _of_broker(url: str, timeout_s: float) -> dict[str, str]:
    from emq_compat.client import Client  # noqa: PLC0415 - not for a probe by HTTP

    try:
        with Client(url, timeout_s=timeout_s) as client:
            client.ask("stats")
    except BrokerRefused as exc:
        return {"loop": "", "journal": str(exc)}
    except ConfigurationError:
        raise
    except EmqError as exc:
        return {"loop": str(exc)}
    return {"loop": ""}


def _of_worker(url: str, node: str, timeout_s: float) -> dict[str, str]:
    from emq_compat.client import Client  # noqa: PLC0415 - not for a probe by HTTP

    try:
        with Client(url, timeout_s=timeout_s) as client:
            answers = client.inspect("health", destination=[node], timeout_s=timeout_s)
    except ConfigurationError:
        raise
    except EmqError as exc:
        return {"loop": str(exc)}
    return _answered(node, answers)


def _answered(node: str, answers: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Return the checks of the only answer, or that there is none."""
    for answer in answers.values():
        checks = answer.get("ok")
        if isinstance(checks, dict):
            return {"loop": "", **checks}
        return {"loop": f"{node} answers with an error: {answer.get('error')}"}
    return {"loop": f"no answer from {plain_name(node)}"}


def _over_kombu(url: str, node: str | None, timeout_s: float) -> dict[str, str]:
    """Ask another broker for a connection, or a worker on it for a ``ping``."""
    from emq_compat.cli.connection import Connection  # noqa: PLC0415 - heavy, for other brokers only
    from emq_compat.shim.exceptions import ImproperlyConfigured  # noqa: PLC0415 - likewise
    from emq_compat.upstream.factory import shown  # noqa: PLC0415

    connection = Connection(None, url)
    try:
        if node is None:
            with connection.kombu(timeout_s):
                return {"loop": ""}
        with connection.app() as app:
            answers = app.control.inspect(destination=[node], timeout=timeout_s).ping()
    except ImproperlyConfigured as exc:
        return {"loop": str(exc)}
    except Exception as exc:  # noqa: BLE001 - whatever a transport raises
        return {"loop": f"no answer from {shown(url)}: {str(exc) or type(exc).__name__}"}
    return {"loop": "" if answers else f"no answer from {node}"}
