"""The tasks."""

from emq_compat.celery_shim import chord, shared_task
from emq_compat.celery_shim.utils.log import get_task_logger

logger = get_task_logger(__name__)


class Unreachable(Exception):
    """The bank doesn't answer."""


@shared_task(bind=True, autoretry_for=(Unreachable,), retry_backoff=True, retry_jitter=False, max_retries=5)
def charge(self, order, amount):
    """Charge an order; the bank is unreachable the first time."""
    if self.request.retries == 0:
        raise Unreachable(order)
    return {"order": order, "amount": amount}


@shared_task
def total(charges):
    """Return what a day's charges come to."""
    logger.info("%d orders", len(charges))
    return sum(charge["amount"] for charge in charges)


@shared_task(throws=(ValueError,))
def refund(order, amount):
    """Give money back."""
    if amount <= 0:
        raise ValueError(f"order {order}: nothing to refund")
    return amount


def close_day(amounts):
    """Charge all orders of a day at once, and sum them up once all are done."""
    return chord((charge.s(order, amount) for order, amount in enumerate(amounts)), total.s()).apply_async()
