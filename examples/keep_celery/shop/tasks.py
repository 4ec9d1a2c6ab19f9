"""The tasks, as a project on Celery has them."""

from celery import chain, chord, group, shared_task
from celery.utils.log import get_task_logger

logger = get_task_logger(__name__)


class TillJams(Exception):
    """Now and then the till jams."""


@shared_task
def price(article: str) -> int:
    return {"tea": 30, "cup": 70, "pot": 100}[article]


@shared_task
def total(prices: list[int]) -> int:
    return sum(prices)


@shared_task
def with_tax(amount: int, percent: int = 20) -> int:
    return amount + amount * percent // 100


@shared_task(bind=True, autoretry_for=(TillJams,), retry_backoff=False, default_retry_delay=1, max_retries=3)
def pay(self, amount: int) -> str:
    if self.request.retries < 2:
        raise TillJams
    return f"{amount} paid, at try {self.request.retries + 1}"


@shared_task(bind=True)
def deliver(self, articles: list[str]) -> None:
    """What a task is replaced by takes its place in the chain."""
    raise self.replace(group(wrapped.s(article) for article in articles))


@shared_task
def wrapped(article: str) -> str:
    return f"a wrapped {article}"


@shared_task(ignore_result=True)
def count_till() -> None:
    logger.info("the till is counted")


def order(articles: list[str]):
    """The workflow of an order: the prices at once, their sum, the tax, and the payment."""
    return chain(chord((price.s(article) for article in articles), total.s()), with_tax.s(), pay.s())
