"""What takes orders: `python -m shop.orders WORD COUNT` sends so many, to the broker of the settings."""

import sys

from shop.tasks import pack


def main() -> None:
    """Every fifth parcel may leave in some seconds only: it has a countdown."""
    word, count = sys.argv[1], int(sys.argv[2])
    for number in range(count):
        pack.apply_async((f"{word}-{number}",), countdown=3 if number % 5 == 1 else None)


if __name__ == "__main__":
    main()
