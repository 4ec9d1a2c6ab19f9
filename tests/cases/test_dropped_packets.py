"""Networks whose packets vanish for a while, without a word to anybody (case 41)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases.conftest import BACK_S, assert_back, pass_s
from tests.site import POOLS, Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]


class Island:
    """A network namespace with one link to this one, over which every packet can be dropped."""

    def __init__(self) -> None:
        tag = f"{os.getpid() % 100_000:05d}"
        self.name, self._ours, self._theirs = f"emq{tag}", f"emqo{tag}", f"emqt{tag}"
        subnet = f"10.{213 + os.getpid() // 250 % 20}.{os.getpid() % 250}"
        self.address = f"{subnet}.1"
        self._far = f"{subnet}.2"

    def __enter__(self) -> Island:
        _ip("netns", "add", self.name)
        _ip("link", "add", self._ours, "type", "veth", "peer", "name", self._theirs, "netns", self.name)
        _ip("addr", "add", f"{self.address}/30", "dev", self._ours)
        _ip("link", "set", self._ours, "up")
        _ip("-n", self.name, "addr", "add", f"{self._far}/30", "dev", self._theirs)
        _ip("-n", self.name, "link", "set", self._theirs, "up")
        return self

    def __exit__(self, *exc: object) -> None:
        _ip("netns", "del", self.name)

    def drop_packets(self, drop: bool) -> None:
        """Drop all that is sent from now on, or no more; nobody is told of it."""
        _ip("-n", self.name, "link", "set", self._theirs, "down" if drop else "up")


def _ip(*argv: str) -> None:
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, timeout=20)
    assert 0 == done.returncode, done.stderr


def _can_make_islands() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, timeout=20)
    return tried.returncode == 0


@pytest.mark.long
@pytest.mark.skipif(not _can_make_islands(), reason="needs root and network namespaces")
@pytest.mark.parametrize("away_s", [4.0, 30.0], ids=["shorter", "longer"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("pool", POOLS)
def test_dropped_packets(site: Site, pool: str, busy: bool, away_s: float) -> None:
    """41: packets that vanish, for less or more than dead_after, cost no task and no second start."""
    with Island() as island:
        backend = site.ports["backend"]
        site.start_broker("--insecure", "--backend", f"tcp://{island.address}:{backend}")
        site.procs.start(
            "ip", "netns", "exec", island.name, Path(sys.executable).with_name("emq-compat"),
            "worker", "-A", site.tasks.__name__, "-P", pool, "-c", "1", "-l", "info",
            "-b", f"emq://{island.address}?worker_port={backend}",
            cwd=site.folder, ready="is ready", timeout_s=60,
        )  # fmt: skip
        tasks = site.tasks
        assert "before" == tasks.ping.delay("before").get(timeout=5)
        held = []
        if busy:
            held = [tasks.sleep_late.delay(away_s + 2, "running"), tasks.ping.delay("waiting")]
            site.wait_runs("start running")

        island.drop_packets(True)
        pass_s(away_s)
        island.drop_packets(False)

        assert_back(site, "new")
        assert ["running", "waiting"][: len(held)] == [result.get(timeout=BACK_S) for result in held]
        assert (1 if busy else 0) == site.count("start running")
        assert (3 if busy else 2) == site.count("ping")
