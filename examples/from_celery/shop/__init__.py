"""A small shop on Celery. What the move adds to it stands between the two comments."""

# -- added
from emq_compat import celery_shim

celery_shim.install()
# -- end

from .celery import app  # noqa: E402

__all__ = ["app"]
