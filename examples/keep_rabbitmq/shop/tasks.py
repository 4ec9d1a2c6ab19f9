"""The tasks, as a project on Celery has them."""

import time

from celery import shared_task


@shared_task(bind=True)
def roast(self, batch: int) -> list:
    """Say who has roasted a batch."""
    time.sleep(0.05)
    return [batch, self.request.hostname]


@shared_task(bind=True, max_retries=2, default_retry_delay=1)
def grind(self, roasted: list) -> str:
    """Jams once, and is tried again: by whichever worker comes to it."""
    if self.request.retries == 0:
        raise self.retry()
    return f"batch {roasted[0]} is ground"
