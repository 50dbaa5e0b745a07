"""The report page in a real browser: `make test-browser`. Without Chromium it is skipped."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fl_mlmc.simulations.lab.page import write_page
from fl_mlmc.simulations.lab.sweep import compare_runs
from tests.simulations.lab.test_page import logged

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        logged(folder / f"{label}{seed}", compressor=label, seed=seed)
        for label in ("Identity()", "MLMC(TopK(fraction=0.05))", "QSGD(levels=4)")
        for seed in (0, 1)
    ]
    return write_page(compare_runs(runs), folder / "report.html", "three compressors")


def until(page: Any, true: str, seconds: float = 10.0) -> None:
    """Wait for an expression to be true; the page's own policy forbids playwright to wait within it."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(true):
        assert time.monotonic() < deadline, true
        page.wait_for_timeout(50)


@pytest.mark.parametrize("width", [1280, 390])
def test_a_person_can_use_the_page(browser: Any, page_file: Path, width: int, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    page.wait_for_selector("#curves .legendtoggle")
    lines = "#curves .cartesianlayer .scatterlayer .trace"
    assert page.locator(lines).count() == 12, "two panels of three bands and three lines"
    page.locator("#curves .legendtoggle").first.click()
    until(page, f"document.querySelectorAll('{lines}').length === 8")
    page.locator("#curves .updatemenu-header").click()
    page.locator("#curves .updatemenu-dropdown-button", has_text="uplink bytes").click()
    until(page, "document.querySelector('#curves').layout.xaxis.type === 'log'")
    assert page.evaluate("document.querySelector('#curves').data[1].x") == [1000, 2000]
    assert page.evaluate("document.querySelector('#curves').layout.xaxis2.title.text") == "uplink bytes"
    page.locator("#clients .updatemenu-header").click()
    page.locator("#clients .updatemenu-dropdown-button", has_text="dropped").click()
    until(page, "document.querySelector('#clients').data[0].y[0] === 1")
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is wider than the window"
    page.screenshot(path=str(tmp_path / f"{width}.png"), full_page=True)
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()
