"""What Celery doesn't have: coroutines as tasks, and publishes that are confirmed as a whole."""

import asyncio

from emq_compat.celery_shim import shared_task

from .celery import app


@shared_task
async def receipt(order):
    """Wait for what a mail server would say; `worker -P asyncio` runs a hundred of these at once."""
    await asyncio.sleep(0.01)
    return f"order {order}"


def receipts(orders):
    """Publish all receipts as one; an error names those that didn't get onto the broker's disk."""
    with app.pipeline():
        return [receipt.delay(order) for order in orders]
