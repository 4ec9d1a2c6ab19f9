"""Pools: prefork (a zygote and its children), threads and solo, behind the contract of base.py."""
