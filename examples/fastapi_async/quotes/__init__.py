"""Asks suppliers for their prices, many at once: FastAPI in front, ``async def`` tasks behind."""
