"""Celery's helper modules, one file each: what projects import from ``celery.utils``, ``celery.local`` …"""
