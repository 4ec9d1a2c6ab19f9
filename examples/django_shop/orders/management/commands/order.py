"""``manage.py order EMAIL CARD NAME=COUNT …``: place an order, as a customer on the web does."""

from celery.exceptions import OperationalError
from django.core.management.base import BaseCommand, CommandError

from orders.checkout import OutOfStock, place_order


class Command(BaseCommand):
    """The command."""

    help = "Place an order."

    def add_arguments(self, parser):
        """Take who wants what, and who pays."""
        parser.add_argument("email")
        parser.add_argument("card")
        parser.add_argument("wanted", nargs="+", metavar="NAME=COUNT")

    def handle(self, *, email, card, wanted, **options):
        """Place it."""
        pairs = (one.partition("=") for one in wanted)
        try:
            place_order(email, card, {name: int(count) for name, _, count in pairs})
        except OutOfStock as exc:
            raise CommandError(str(exc)) from exc
        except OperationalError:  # raised behind the commit: the order is there
            self.stdout.write("placed; the broker is away, so it is begun later")
        else:
            self.stdout.write("placed")
