"""The bank, played here: some cards are declined, some connections fail. Its ledger shows each attempt."""

import json

from django.conf import settings


class BankDown(Exception):
    """The bank doesn't answer; it may a moment later."""


class CardDeclined(Exception):
    """The bank says no."""


def charge(card, amount, *, key):
    """Take money from a card. The same key is one payment, however often it is asked for.

    Cards that end with 0000 are declined; those with 0002 find the bank down twice.
    """
    earlier = [line for line in _ledger() if line["key"] == key]
    if any(line["outcome"] == "charged" for line in earlier):
        return
    outcome = "charged"
    if card.endswith("0000"):
        outcome = "declined"
    elif card.endswith("0002") and len(earlier) < 2:
        outcome = "down"
    with open(settings.BANK_LEDGER, "a") as file:
        file.write(json.dumps({"key": key, "amount": str(amount), "outcome": outcome}) + "\n")
    if outcome == "declined":
        raise CardDeclined("card declined")
    if outcome == "down":
        raise BankDown("no answer from the bank")


def attempts(key):
    """Return how often a payment was tried."""
    return sum(line["key"] == key for line in _ledger())


def _ledger():
    try:
        text = settings.BANK_LEDGER.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]
