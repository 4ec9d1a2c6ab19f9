"""Genuine apps and shim apps on each broker: what holds on all of them."""

from __future__ import annotations

import pytest

from tests.mixed_site import MixedSite, Raised, combinations

pytestmark = [pytest.mark.integration, pytest.mark.cases]


@pytest.mark.parametrize(
    "mixed", combinations(short=("genuine-emq", "genuine-redis", "genuine-amqp", "shim-emq")), indirect=True
)
def test_tasks_run_and_their_results_come_back(mixed: MixedSite) -> None:
    """A result, a failure and a chain come back from a worker of ours, whatever the app and the broker."""
    mixed.start_worker("-c", "1")

    assert "x" == mixed.ask("ping.delay('x').get(timeout=20)")
    with pytest.raises(Raised, match="ValueError: no"):
        mixed.ask("fail.delay('no').get(timeout=20)")
    assert "b" == mixed.ask("(ping.si('a') | ping.si('b')).delay().get(timeout=20)")
    assert ["ping x", "ping a", "ping b"] == mixed.runs()
