"""What the other tests here rely on."""

from __future__ import annotations

import celery


def test_celery_is_genuine() -> None:
    """`celery` is the package of that name, not the shim under its name."""
    assert "site-packages/celery/" in celery.__file__
    assert celery.__version__ == "5.7.0"
