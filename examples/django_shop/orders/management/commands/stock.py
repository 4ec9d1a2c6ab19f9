"""``manage.py stock NAME PRICE COUNT``: put a product on the shelf."""

from decimal import Decimal

from django.core.management.base import BaseCommand

from orders.models import Product


class Command(BaseCommand):
    """The command."""

    help = "Put a product on the shelf."

    def add_arguments(self, parser):
        """Take what it is, what it costs, and how many there are."""
        parser.add_argument("name")
        parser.add_argument("price", type=Decimal)
        parser.add_argument("count", type=int)

    def handle(self, *, name, price, count, **options):
        """Put it there."""
        Product.objects.update_or_create(name=name, defaults={"price": price, "stock": count})
