"""The client: `python -m shop.day`."""

from shop.tasks import close_day, refund

# -- own
from shop.own import receipts  # isort: skip

# -- end


def main() -> None:
    """Close a day, refund an order, and one that can't be."""
    print("total:", close_day([20, 30, 50]).get(timeout=60))
    print("refunded:", refund.delay(2, 50).get(timeout=60))
    try:
        refund.delay(1, 0).get(timeout=60)
    except ValueError as exc:
        print("refused:", exc)
    # -- own
    print("receipts:", ", ".join(result.get(timeout=60) for result in receipts(range(3))))
    # -- end


if __name__ == "__main__":
    main()
