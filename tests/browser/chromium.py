"""Debian's Chromium, driven by selenium: themes, phone width, what its console said, pictures."""

import base64
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

ABSENT = None if shutil.which("chromium") and shutil.which("chromedriver") else "apt-get install chromium chromium-driver"
"""How to get it, where it is not."""
WIDE, PHONE = 1280, 390


class Browser:
    """`base` is the console's address, with a slash at its end."""

    def __init__(self, driver: Chrome, base: str) -> None:
        self.driver, self.base = driver, base

    def look(self, theme: str, width: int, height: int = 860) -> None:
        """`theme`: light or dark."""
        media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def go(self, path: str) -> None:
        self.driver.get(self.base + path.lstrip("/"))

    def script(self, text: str) -> Any:
        return self.driver.execute_script(text)

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def link(self, text: str) -> Any:
        return self.driver.find_element(By.PARTIAL_LINK_TEXT, text)

    @property
    def text(self) -> str:
        return str(self.script("return document.body ? document.body.innerText : ''"))

    def until(self, condition: Callable[[], object], what: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds:g} s and still not: {what}\n{self.text}"
            time.sleep(0.05)

    def press(self, selector: str = "", *, link: str = "") -> None:
        """A button or a link that leads to another page, and wait for that page. What is live may be new between finding and pressing."""
        self.script("window.left = true")
        for left in (2, 1, 0):
            try:
                (self.link(link) if link else self.find(selector)).click()
                break
            except StaleElementReferenceException:
                if not left:
                    raise
        self.until(lambda: self.script("return !window.left && document.readyState === 'complete'"), "there is another page")

    def loaded(self) -> None:
        """All of the page is there, and what can be live is."""
        self.until(lambda: "Reading…" not in self.text, "the parts of the page are read")
        live = "return !document.querySelector('[data-live]') || document.querySelector('#state').textContent === 'live'"
        self.until(lambda: self.script(live), "the page is live")

    def said(self) -> list[str]:
        """By the browser's console since the last time."""
        return [each["message"] for each in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def picture(self, path: Path, height: int | None = None) -> None:
        """The page from its top as PNG, all of it up to 3,000 pixels."""
        size = self.script("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": height or min(3000, size[1]), "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def chromium(base: str) -> Iterator[Browser]:
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    # In a container it has neither a sandbox nor much of /dev/shm.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield Browser(driver, base)
    finally:
        driver.quit()
