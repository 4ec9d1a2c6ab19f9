"""What Celery doesn't have: coroutines as tasks, publishes that are confirmed as a whole, unique tasks."""

import asyncio
import time

from emq_compat.celery_shim import shared_task

from .celery import app


@shared_task
async def receipt(order):
    """Wait for what a mail server would say; `worker -P asyncio` runs a hundred of these at once."""
    await asyncio.sleep(0.01)
    return f"order {order}"


@shared_task(unique_for=60)
def summary(day):
    """Sum a day up: whoever asks for it while it waits or runs gets the one that is under way."""
    time.sleep(0.5)
    return day


def receipts(orders):
    """Publish all receipts as one; an error names those that didn't get onto the broker's disk."""
    with app.pipeline():
        return [receipt.delay(order) for order in orders]
