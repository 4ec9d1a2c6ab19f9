"""Our parts meeting those of stock eventmq 0.3.13, both ways, as real processes."""
