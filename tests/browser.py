"""Chromium without a screen, which a test clicks in and reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
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
        found = self._driver.find_element(By.CSS_SELECTOR, selector)
        to_the_middle = "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})"
        self._driver.execute_script(to_the_middle, found)
        found.click()

    def fill(self, selector: str, text: str) -> None:
        """Write into a field."""
        field = self._driver.find_element(By.CSS_SELECTOR, selector)
        field.clear()
        field.send_keys(text)

    def text_of(self, selector: str) -> str:
        """What stands in the first element that a CSS selector finds; empty where there is none."""
        found = self._driver.find_elements(By.CSS_SELECTOR, selector)
        try:
            return found[0].text if found else ""
        except StaleElementReferenceException:
            return ""

    def count(self, selector: str) -> int:
        """How many elements a CSS selector finds."""
        return len(self._driver.find_elements(By.CSS_SELECTOR, selector))

    def shown(self, selector: str) -> int:
        """How many elements that can be seen a CSS selector finds."""
        return sum(one.is_displayed() for one in self._driver.find_elements(By.CSS_SELECTOR, selector))

    def press(self, key: str) -> None:
        """Press a key, wherever the focus is."""
        self._driver.switch_to.active_element.send_keys(key)

    def press_enter(self, selector: str) -> None:
        """Press Enter in a field."""
        self._driver.find_element(By.CSS_SELECTOR, selector).send_keys(Keys.ENTER)

    def resize(self, width: int, height: int) -> None:
        """Have the page be so large, in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, scheme: str) -> None:
        """Have the system prefer ``light`` or ``dark`` colours."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def ask(self, script: str) -> Any:
        """Run a script in the page; returns what it does."""
        return self._driver.execute_script(script)

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes of the accessibility tree: what screen readers are told, but for those ignored."""
        found: list[dict[str, Any]] = self._driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        return found

    def block(self, *urls: str) -> None:
        """Have the browser not load what these patterns match."""
        self._driver.execute_cdp_cmd("Network.enable", {})
        self._driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": list(urls)})

    def errors(self) -> list[str]:
        """What the console tells of as an error, since the last call."""
        return [line["message"] for line in self._driver.get_log("browser") if line["level"] == "SEVERE"]

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
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = program
    for option in (*_OPTIONS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(option)
    service = Service(driver, log_output=str(folder / "chromedriver.log"))
    opened = webdriver.Chrome(options=options, service=service)
    try:
        yield Browser(opened, folder)
    finally:
        opened.quit()
