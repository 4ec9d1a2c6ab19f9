"""What the shop keeps."""

from django.db import models


class Product(models.Model):
    """Something to buy."""

    name = models.CharField(max_length=40, unique=True)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    stock = models.PositiveIntegerField()


class Order(models.Model):
    """What a customer wants, and how far it is."""

    class Status(models.TextChoices):
        PLACED = "placed"
        PAID = "paid"
        DECLINED = "declined"
        UNPAID = "unpaid"

    email = models.EmailField()
    card = models.CharField(max_length=19)
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.PLACED)
    remark = models.CharField(max_length=100, blank=True)
    placed_at = models.DateTimeField(auto_now_add=True)
    begun_at = models.DateTimeField(null=True)

    @property
    def total(self):
        """What it costs."""
        return sum(line.count * line.price for line in self.lines.all())


class Line(models.Model):
    """One product of an order, at the price it had."""

    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, models.PROTECT)
    count = models.PositiveIntegerField()
    price = models.DecimalField(max_digits=8, decimal_places=2)


class Invoice(models.Model):
    """The invoice of a paid order; it is the only one, however often its task runs."""

    order = models.OneToOneField(Order, models.CASCADE)
    text = models.TextField()
    sent_at = models.DateTimeField(null=True)
    picked_at = models.DateTimeField(null=True)


class Report(models.Model):
    """What a day brought."""

    day = models.DateField(unique=True)
    orders = models.PositiveIntegerField()
    revenue = models.DecimalField(max_digits=10, decimal_places=2)
