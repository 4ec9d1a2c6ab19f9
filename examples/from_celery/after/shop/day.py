"""The client: `python -m shop.day`."""

from shop.tasks import close_day, refund

# -- own
from shop.own import receipts, summary  # isort: skip

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
    first, second = summary.delay("monday"), summary.delay("monday")
    print("one summary:", first.id == second.id, second.get(timeout=60))
    # -- end


if __name__ == "__main__":
    main()
