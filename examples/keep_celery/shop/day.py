"""A day in the shop: what a web server would call."""

from celery.result import allow_join_result

from shop.tasks import deliver, order, price

LIMIT_S = 60


def main() -> None:
    """Take an order, deliver it, and be asked for what there isn't."""
    articles = ["tea", "cup", "pot"]
    print("order:", order(articles).delay().get(timeout=LIMIT_S), flush=True)
    with allow_join_result():
        print("delivered:", ", ".join(sorted(deliver.delay(articles).get(timeout=LIMIT_S))), flush=True)
    wrong = price.delay("moon")
    wrong.get(timeout=LIMIT_S, propagate=False)
    print("refused:", wrong.state, repr(wrong.result), flush=True)


if __name__ == "__main__":
    main()
