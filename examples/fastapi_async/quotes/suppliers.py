"""Where the suppliers are. Played by the application itself (main.py), each slow in a way of its own."""

import os

__all__ = ["SUPPLIERS", "address"]

#: Supplier → seconds until it answers.
SUPPLIERS = {"acme": 0.1, "bolts & co": 0.4, "closed": 0.2, "dusty": 0.7}


def address() -> str:
    """Return the URL that they are asked at."""
    return os.environ.get("QUOTES_SUPPLIERS", "http://127.0.0.1:8000/suppliers")
