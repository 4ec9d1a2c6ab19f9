"""Reads the pages of ``--http``."""

from __future__ import annotations

import json
import re
from http.client import HTTPConnection
from typing import Any, NamedTuple

from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from emq_compat.cli.main import cli
from emq_compat.monitor.address import HttpAddress
from tests.processes import Proc

#: What a process that serves them logs, or prints.
TOLD = re.compile(r"health and metrics: http://(\S+)/live")


class Page(NamedTuple):
    """A status and a JSON document."""

    status: int
    document: dict[str, Any]

    @property
    def wrong(self) -> dict[str, str]:
        """Name of check → why it fails."""
        return {name: check["why"] for name, check in self.document["checks"].items() if not check["ok"]}


def address_of(proc: Proc) -> HttpAddress:
    """Wait until a process has told where it serves; return that."""
    found = proc.wait_for(lambda: TOLD.search(proc.output()), what="the address of --http")
    assert found is not None
    return HttpAddress.parse(found.group(1))


def read(address: HttpAddress, path: str) -> tuple[int, bytes]:
    """Return a page's status and body."""
    connection = HTTPConnection(*address, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def page(address: HttpAddress, path: str) -> Page:
    """Return ``/live`` or ``/ready``."""
    status, body = read(address, path)
    return Page(status, json.loads(body))


def metrics(address: HttpAddress) -> dict[str, float]:
    """Return every sample: its name and labels as Prometheus writes them → value."""
    status, body = read(address, "/metrics")
    assert status == 200, body
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def health(*options: str) -> tuple[int, str]:
    """Run ``emq-compat health``; return its exit status and its line."""
    result = CliRunner().invoke(cli, ["health", *options])
    return result.exit_code, result.output.strip()
