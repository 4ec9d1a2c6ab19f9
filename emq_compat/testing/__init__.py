"""For the tests of projects: an in-memory broker, workers in the test's process, Celery's pytest fixtures.

As a pytest plugin (``-p emq_compat.testing``, or ``pytest_plugins = ["emq_compat.testing"]``) this package
brings the fixtures of ``celery.contrib.pytest`` (plugin.py). The other modules need no pytest. Nothing of it
is loaded unless it is asked for: there is no entry point by which pytest would find it.
"""

from __future__ import annotations

__all__ = ["pytest_plugins"]

#: What pytest loads with this one: so importing the package needs no pytest.
pytest_plugins = ["emq_compat.testing.plugin"]
