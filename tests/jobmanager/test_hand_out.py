"""Who gets the next task: an idle worker never waits behind a busy one."""

from __future__ import annotations

import pytest

from tests.site import Site

pytestmark = [pytest.mark.integration]


@pytest.mark.parametrize(
    ("pool", "options"),
    [
        ("prefork", ()),
        ("solo", ()),
        pytest.param("threads", (), marks=pytest.mark.long),
        pytest.param("prefork", ("--prefetch-multiplier", "1"), marks=pytest.mark.long),
        pytest.param("solo", ("--prefetch-multiplier", "1"), marks=pytest.mark.long),
    ],
)
def test_an_idle_worker_takes_what_waits(site: Site, pool: str, options: tuple[str, ...]) -> None:
    """Pings behind a long task run on the second worker as soon as that is there."""
    site.start_broker()
    first = site.start_worker("-P", pool, "-c", "1", *options)
    for n in range(5):  # the first worker has learned that pings are short
        site.tasks.ping.delay(f"warm{n}").get(timeout=10)
    site.tasks.sleep_late.delay(12, "long")
    pings = [site.tasks.ping.delay(f"ping{n}") for n in range(4)]
    site.wait_runs("start long")

    site.start_worker("-P", pool, "-c", "1", *options)

    assert [f"ping{n}" for n in range(4)] == [result.get(timeout=3) for result in pings]
    assert 0 == site.count("end long")
    first.kill()


def test_eta_tasks_are_shared(site: Site) -> None:
    """ETA tasks wait in the broker: a worker that comes later has its part of them."""
    site.write_project(
        "\n@app.task(bind=True)\ndef nap(self):\n    time.sleep(0.5)\n    return self.request.hostname\n"
    )
    site.start_broker()
    site.start_worker("-c", "1")
    naps = [site.tasks.nap.apply_async(countdown=2) for _ in range(10)]
    site.start_worker("-c", "1")

    hosts = [nap.get(timeout=20).partition("@")[0] for nap in naps]

    assert 3 <= hosts.count("w0")
    assert 3 <= hosts.count("w1")


@pytest.mark.parametrize("pool", ["prefork", pytest.param("solo", marks=pytest.mark.long)])
def test_priorities(site: Site, pool: str) -> None:
    """With 200 waiting, ten of a higher priority run among the first twelve."""
    site.start_broker()
    with site.tasks.app.pipeline():
        for n in range(200):
            site.tasks.ping.apply_async((f"low{n}",), priority=2)
        for n in range(10):
            site.tasks.ping.apply_async((f"high{n}",), priority=8)

    site.start_worker("-P", pool, "-c", "1")

    site.wait_runs("ping", 210)
    assert 10 == sum("high" in line for line in site.runs()[:12])


def test_two_workers_of_one_name(site: Site) -> None:
    """The broker warns about a second worker of the same name, and so does that one; both work."""
    broker = site.start_broker()
    first, second = (site.start_worker("-n", "same@%h", "-c", "1") for _ in range(2))
    broker.wait_line("a second worker is named same@")
    second.wait_line("another worker is named same@")
    assert "another worker" not in first.output()
    results = [site.tasks.sleep.delay(0.5, str(n)) for n in range(2)]
    assert ["0", "1"] == [result.get(timeout=10) for result in results]
