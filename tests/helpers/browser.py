"""A headless Chromium for tests of HTML pages, driven by playwright; one start for all tests of a file."""

import contextlib
import shutil
from dataclasses import dataclass, field

import pytest

from tests.helpers import libraries

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PATH = next((path for name in NAMES if (path := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(PATH is None, reason=f"no headless Chromium is installed, e.g. {NAMES[0]}")


@contextlib.contextmanager
def started():
    """Yield a browser that runs until the block ends."""
    playwright = libraries.needed("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=PATH, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@dataclass
class Shown:
    """An opened page with all that it complained of, asked for, or popped up."""

    page: object
    complaints: list = field(default_factory=list)
    requests: list = field(default_factory=list)


@contextlib.contextmanager
def opened(browser, path, *, width=1280, scheme="light", scripts=True):
    """Yield a page of a file at this width and in this colour scheme."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts,
        accept_downloads=True,
    )  # fmt: skip
    shown = Shown(context.new_page())
    shown.page.on("console", lambda message: shown.complaints.append(message.text))
    shown.page.on("pageerror", lambda error: shown.complaints.append(str(error)))
    shown.page.on("dialog", lambda dialog: (shown.complaints.append(dialog.message), dialog.dismiss()))
    shown.page.on("request", lambda request: shown.requests.append(request.url))
    shown.page.goto(path.as_uri())
    yield shown
    context.close()
