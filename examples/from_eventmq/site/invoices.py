"""The jobs of a small shop: plain functions and a class, as a stock eventmq job manager runs them."""

import json
import os
from pathlib import Path


def _note(name, line):
    """Append a line, in one write, to a file of the folder SHOP_FOLDER."""
    with open(Path(os.environ["SHOP_FOLDER"]) / name, "ab", buffering=0) as file:
        file.write(f"{line}\n".encode())


def write_invoice(number, cents):
    """Write an invoice; returns its total with tax, in cents."""
    total = round(cents * 1.19)
    _note("invoices", json.dumps({"number": number, "total": total}))
    return total


def report():
    """Count the invoices so far: what the shop has done every few seconds."""
    invoices = Path(os.environ["SHOP_FOLDER"]) / "invoices"
    count = len(invoices.read_text().splitlines()) if invoices.exists() else 0
    _note("reports", count)
    return count


class Mailer:
    """`invoices:Mailer` in a message: made with class_args, then one of its methods is called."""

    def __init__(self, sender="shop@example.org"):
        self.sender = sender

    def send(self, to, number):
        """Send an invoice."""
        _note("mails", json.dumps({"from": self.sender, "to": to, "number": number}))
        return to
