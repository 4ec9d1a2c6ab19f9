"""A browser without a screen, for tests of pages: installed as the servers are, started by the test."""

from __future__ import annotations

import shutil

NAME = "chromium"
PACKAGES = ("chromium", "chromium-driver")


def program() -> str | None:
    """The path of the browser, or None when it, or what drives it, is not installed."""
    return driver() and shutil.which("chromium")


def driver() -> str | None:
    """The path of chromedriver, or None when it is not installed."""
    return shutil.which("chromedriver")
