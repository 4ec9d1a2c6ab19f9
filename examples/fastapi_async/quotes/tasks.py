"""The tasks: coroutines, of which one worker process runs a hundred at a time."""

from typing import Any

import httpx

from emq_compat.celery_shim import shared_task
from quotes.suppliers import address

__all__ = ["ask", "best"]

Quote = dict[str, Any]

#: How suppliers are reached; tests have another way.
transport: httpx.AsyncBaseTransport | None = None


@shared_task(
    autoretry_for=(httpx.TransportError,), retry_backoff=1, max_retries=3, throws=(httpx.HTTPStatusError,)
)
async def ask(supplier: str, article: str, pieces: int) -> Quote:
    """Return what a supplier wants for so many pieces; None for the price where it doesn't have them."""
    async with httpx.AsyncClient(timeout=10, transport=transport) as client:
        answer = await client.get(address(), params={"supplier": supplier, "article": article})
    if answer.status_code == 404:
        return {"supplier": supplier, "price": None}
    answer.raise_for_status()
    return {"supplier": supplier, "price": round(answer.json()["price"] * pieces, 2)}


@shared_task
def best(quotes: list[Quote]) -> Quote | None:
    """Return the best of the quotes, once all are there."""
    offered = [quote for quote in quotes if quote["price"] is not None]
    return min(offered, key=lambda quote: quote["price"], default=None)
