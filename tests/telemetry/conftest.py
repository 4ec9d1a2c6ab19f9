"""Apps on the broker in memory."""

from __future__ import annotations

from tests.testing.conftest import _own_state, app, make_app

__all__ = ["_own_state", "app", "make_app"]
