"""Pools: prefork (a zygote and its children), threads, solo and asyncio, behind the contract of base.py."""
