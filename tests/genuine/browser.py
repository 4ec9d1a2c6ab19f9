"""Chromium without a screen, which a test clicks in and reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.services import chromium

__all__ = ["Browser", "browser"]

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1300,1000",
)


class Browser:
    """One window.

    Args:
        shots: where ``shot`` leaves its pictures.
    """

    def __init__(self, driver: webdriver.Chrome, shots: Path) -> None:
        self._driver = driver
        self._shots = shots

    def open(self, url: str) -> None:
        """Go to a page."""
        self._driver.get(url)

    @property
    def text(self) -> str:
        """What stands on the page."""
        return self._driver.find_element(By.TAG_NAME, "body").text

    def wait_for(self, *texts: str, timeout_s: float = 30.0, again: bool = False) -> str:
        """Wait until all of these stand on the page, which is loaded again and again if ``again``; return it.

        :raises AssertionError: with what stands there, when the time passes first.
        """

        def there(driver: webdriver.Chrome) -> bool:
            if all(text in self.text for text in texts):
                return True
            if again:
                driver.refresh()
            return False

        try:
            WebDriverWait(self._driver, timeout_s, poll_frequency=0.3).until(there)
        except Exception as exc:
            self.shot("missing")
            raise AssertionError(f"{texts} are not on the page:\n{self.text}") from exc
        return self.text

    def click(self, selector: str) -> None:
        """Click on what a CSS selector finds."""
        self._driver.find_element(By.CSS_SELECTOR, selector).click()

    def fill(self, selector: str, text: str) -> None:
        """Write into a field."""
        field = self._driver.find_element(By.CSS_SELECTOR, selector)
        field.clear()
        field.send_keys(text)

    def shot(self, name: str) -> Path:
        """Take a picture of the page."""
        path = self._shots / f"{name}.png"
        self._driver.save_screenshot(str(path))
        return path


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a fresh profile in a folder; a test without one is skipped, and failed in CI."""
    program, driver = chromium.program(), chromium.driver()
    if program is None or driver is None:
        missing = "no chromium with chromedriver: run `make services`"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    options = Options()
    options.binary_location = program
    for option in (*_OPTIONS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(option)
    service = Service(driver, log_output=str(folder / "chromedriver.log"))
    opened = webdriver.Chrome(options=options, service=service)
    try:
        yield Browser(opened, folder)
    finally:
        opened.quit()
