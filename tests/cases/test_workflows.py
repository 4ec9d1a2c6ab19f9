"""Workflows end to end: what each canvas comes to, in each pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emq_compat.celery_shim import chain, chord, group
from tests.cases.workflows import open_workflow_site
from tests.site import Site

pytestmark = pytest.mark.cases


@pytest.fixture(scope="module", params=["prefork"])
def flows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with one worker of this pool."""
    with open_workflow_site(tmp_path_factory.mktemp(f"flows-{request.param}"), request.param) as site:
        yield site


Make = Callable[[Any], Any]

VALUES: dict[str, tuple[Make, Any]] = {
    "task | task": (lambda t: t.add.s(1, 2) | t.add.s(3), 6),
    "a long chain": (lambda t: chain(t.add.s(0, 1), *(t.add.s(1) for _ in range(20))), 21),
    "a chain of one": (lambda t: chain(t.add.s(1, 2)), 3),
    "an immutable step": (lambda t: t.add.s(1, 1) | t.add.si(5, 5), 10),
    "a chain in a chain": (lambda t: chain(t.add.s(1), chain(t.add.s(2), t.add.s(3)), t.add.s(4)), 10),
    "group": (lambda t: group(t.add.s(i, i) for i in range(5)), [0, 2, 4, 6, 8]),
    "an empty group": (lambda t: group([]), []),
    "group | task": (lambda t: group(t.add.s(1, 1), t.add.s(2, 2)) | t.total.s(), 6),
    "task | group": (lambda t: t.add.s(1, 1) | group(t.add.s(1), t.add.s(2)), [3, 4]),
    "task | group | task": (lambda t: t.add.s(1) | group(t.add.s(1), t.add.s(2)) | t.total.s(), 5),
    "chord": (lambda t: chord([t.add.s(i, i) for i in range(9)], t.same.s()), [2 * i for i in range(9)]),
    "a chord with an empty header": (lambda t: chord([], t.same.s()), []),
    "a chord of one": (lambda t: chord([t.add.s(1, 1)], t.same.s()), [2]),
    "a chord, its body a chain": (lambda t: chord([t.add.s(1), t.add.s(2)], t.total.s() | t.add.s(4)), 7),
    "a chord, its body a group": (
        lambda t: chord([t.add.s(1), t.add.s(2)], group(t.total.s(), t.same.s())),
        [3, [1, 2]],
    ),
    "a chord, its body a chord": (
        lambda t: chord([t.add.s(1), t.add.s(2)], chord([t.total.s(), t.total.s()], t.same.s())),
        [3, 3],
    ),
    "a chord, its body a chain that begins with a group": (
        lambda t: chord([t.add.s(1), t.add.s(2)], group(t.total.s(), t.total.s()) | t.total.s() | t.add.s(1)),
        7,
    ),
    "an immutable body": (lambda t: chord([t.add.s(1)], t.add.si(3, 4)), 7),
    "a chord of a chord": (
        lambda t: chord([chord([t.add.s(1), t.add.s(2)], t.total.s()), t.add.s(9)], t.same.s()),
        [3, 9],
    ),
    "chord | task, group | group": (
        lambda t: group(t.add.s(1), t.add.s(2)) | group(t.total.s(), t.total.s()) | t.same.s(),
        [3, 3],
    ),
    "a group in a group": (
        lambda t: group(group(t.add.s(1), t.add.s(2)), t.add.s(3)) | t.same.s(),
        [1, 2, 3],
    ),
    "a header of chains that end in groups": (
        lambda t: chord([t.add.s(1) | group(t.add.s(1), t.add.s(2)), t.add.s(7)], t.same.s()),
        [2, 3, 7],
    ),
    "case 16": (
        lambda t: (
            group(chain(t.add.s(1), group(t.add.s(1), t.add.s(2)), t.total.s()), t.add.s(5)) | t.same.s()
        ),
        [5, 5],
    ),
    "case 16, three levels": (
        lambda t: (
            group(
                chain(
                    t.add.s(1),
                    group(t.add.s(1) | group(t.add.s(1), t.add.s(2)) | t.total.s(), t.add.s(2)),
                    t.total.s(),
                ),
                group(t.add.s(4), t.add.s(5) | t.add.s(1)),
            )
            | t.same.s()
        ),
        [10, 4, 6],
    ),
    "case 16, retries in the header": (
        lambda t: chord([*(t.flaky.s(i) for i in (0, 1)), *(t.add.s(i) for i in (2, 3, 4))], t.same.s()),
        [0, 1, 2, 3, 4],
    ),
    "map": (lambda t: t.total.map([[1], [2, 3]]), [1, 5]),
    "starmap": (lambda t: t.add.starmap([(1, 1), (2, 2)]), [2, 4]),
    "chunks": (lambda t: t.add.chunks([(1, 1), (2, 2), (3, 3)], 2), [[2, 4], [6]]),
    "chunks | task": (lambda t: t.add.chunks([(1, 1), (2, 2)], 1) | t.same.s(), [[2], [4]]),
    "replaced": (lambda t: t.replaced.s(t.add.s(1, 2)) | t.add.s(3), 6),
    "replaced by a chain": (lambda t: t.replaced.s(t.add.s(1, 2) | t.add.s(4)) | t.add.s(3), 10),
    "replaced by a group": (lambda t: t.replaced.s(group(t.add.s(1), t.add.s(2))) | t.total.s(), 3),
    "replaced by a chord": (lambda t: t.replaced.s(chord([t.add.s(1), t.add.s(2)], t.total.s())), 3),
    "replaced in a header": (
        lambda t: chord([t.replaced.s(t.add.s(1, 2)), t.replaced.s(t.add.s(3) | t.add.s(1))], t.same.s()),
        [3, 4],
    ),
    "replaced in a header by a group": (
        lambda t: chord([t.replaced.s(group(t.add.s(1), t.add.s(2))), t.add.s(5)], t.same.s()),
        [[1, 2], 5],
    ),
    "replaced in a header by a chain that ends in a group": (
        lambda t: chord([t.replaced.s(t.add.s(1) | group(t.add.s(1), t.add.s(2))), t.add.s(5)], t.same.s()),
        [[2, 3], 5],
    ),
    "replaced twice": (lambda t: t.replaced.s(t.replaced.s(t.add.s(1, 2))) | t.add.s(1), 4),
    "a body that is replaced": (lambda t: chord([t.add.s(1)], t.replaced.si(t.add.s(1, 2)) | t.add.s(1)), 4),
    "a chord that grows": (lambda t: chord([t.growing.s(1, 5), t.add.s(2)], t.same.s()), [1, 5, 2]),
    "a body with a countdown": (lambda t: chord([t.add.s(1)], t.same.s().set(countdown=0.2)), [1]),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_canvas_has_its_value(flows: Site, name: str) -> None:
    """Cases 16 and 42: each form of canvas ends, with its values in the header's order."""
    make, wanted = VALUES[name]

    assert wanted == make(flows.tasks).apply_async().get(timeout=20)
