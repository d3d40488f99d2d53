"""The report in a real browser: everything is seen, nothing is fetched, and no name runs as a script.

Needs chromium and its driver. It is about no kernel, so guests leave it out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from tests.unit.report_recordings import INFO, crowd, hostile, record, story
from tracer.cli.main import main

pytestmark = pytest.mark.timeout(300)

BROWSER, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
PATIENCE_S = 180
SECTIONS = ("summary", "nodes", "addresses", "areas", "moved", "touched", "policies", "trust")
PLOTS = ("totals", "heatmap", "flows", "touch")
SCRIPT = "<script>window.__pwned=1</script>"
WIDTHS = (400, 1280)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One for all tests, because it starts slowly: with a profile of its own, and no network."""
    options = ChromeOptions()
    options.binary_location = BROWSER
    arguments = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    arguments += [f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    # Chromium has no sandbox for root.
    for argument in arguments + ["--no-sandbox"] * (os.geteuid() == 0):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(PATIENCE_S)
    driver.execute_cdp_cmd("Network.enable", {})
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports as the command makes them."""
    place = tmp_path_factory.mktemp("reports")
    evil = replace(INFO, host=SCRIPT, command_line=(SCRIPT,), targets=(SCRIPT,), ended_by=SCRIPT)
    many, wide = crowd(40)
    stories = {"story": (story(), INFO), "hostile": (hostile(), evil), "many": (many, wide)}
    made = {}
    for name, (samples, info) in stories.items():
        file, made[name] = record(place / f"{name}.parquet", samples, info), place / f"{name}.html"
        title = f"</title>{SCRIPT}" if name == "hostile" else name
        assert main(["report", str(file), "-o", str(made[name]), "--title", title, "-q"]) == 0
    return made


@pytest.fixture(params=["story", "hostile", "many"])
def page(request: pytest.FixtureRequest, browser: Chrome, pages: dict[str, Path]) -> Chrome:
    """The browser, showing one of them on a wide screen."""
    return show(browser, pages[request.param])


def show(browser: Chrome, page: Path, width: int = 1280, scheme: str = "light") -> Chrome:
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)  # type: ignore[no-untyped-call]
    browser.get(page.as_uri())
    return browser


def requests(browser: Chrome) -> list[str]:
    entries = browser.get_log("performance")  # type: ignore[no-untyped-call]
    messages = [json.loads(entry["message"])["message"] for entry in entries]
    return [it["params"]["request"]["url"] for it in messages if it["method"] == "Network.requestWillBeSent"]


def run(browser: Chrome, script: str, *arguments: Any) -> Any:
    return browser.execute_script(script, *arguments)


def test_everything_is_seen(page: Chrome) -> None:
    for name in (*SECTIONS, *PLOTS):
        element = page.find_element(By.ID, name)
        assert element.is_displayed(), name
        assert element.size["width"] > 200, name
        assert element.size["height"] > 30, name


def test_plots_have_text_of_a_size_to_read(page: Chrome) -> None:
    heights = run(
        page, "return [...document.querySelectorAll('svg.plot text')].map(it => it.getBoundingClientRect().height)"
    )
    assert len(heights) > 20
    assert min(heights) >= 8


def test_labels_do_not_cover_each_other(page: Chrome) -> None:
    script = """
        const plots = [...document.querySelectorAll('svg.plot')];
        return plots.flatMap(plot => {
          const boxes = [...plot.querySelectorAll('text')].map(it => [it.textContent, it.getBoundingClientRect()]);
          const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
                              && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
          return boxes.flatMap(([t, a], i) =>
            boxes.slice(i + 1).filter(([u, b]) => over(a, b)).map(([u]) => t + ' / ' + u));
        });"""
    assert run(page, script) == []


def test_the_map_is_painted(browser: Chrome, pages: dict[str, Path]) -> None:
    """A policy that forbids the image would leave a hole."""
    show(browser, pages["story"])
    script = """
        const image = document.querySelector('#heatmap image'), copy = new Image();
        copy.src = image.href.baseVal;
        return copy.decode().then(() => [copy.naturalWidth, copy.naturalHeight]);"""
    assert run(browser, script) == [480, 300]


def test_nothing_is_fetched(page: Chrome) -> None:
    page.find_element(By.ID, "trust")
    asked = requests(page)
    assert asked[0].startswith("file://")
    assert all(url.startswith("data:image/png;base64,") for url in asked[1:])


def test_no_complaint_and_no_script(page: Chrome) -> None:
    assert page.get_log("browser") == []  # type: ignore[no-untyped-call]
    assert run(page, "return document.scripts.length") == 0
    assert run(page, "return window.__pwned === undefined")


def test_a_name_with_a_script_is_only_shown(browser: Chrome, pages: dict[str, Path]) -> None:
    show(browser, pages["hostile"])
    for element in browser.find_elements(By.CSS_SELECTOR, "nav a, td.name, svg.plot"):
        run(browser, "arguments[0].dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))", element)
    assert run(browser, "return window.__pwned === undefined")
    assert f"</title>{SCRIPT}" in browser.title
    assert SCRIPT in browser.find_element(By.ID, "summary").text
    names = browser.find_element(By.ID, "areas").text
    assert "<img src=x onerror=window.__pwned=1>" in names
    assert r"/srv/\342\200\256gnp.exe" in names
    assert run(browser, "return document.querySelectorAll('img, iframe, object, embed, form').length") == 0
    inline = (
        "return [...document.querySelectorAll('*')].flatMap(it => it.getAttributeNames()).filter(it => /^on/.test(it))"
    )
    assert run(browser, inline) == []


def test_the_policy_stops_what_would_get_through(browser: Chrome, pages: dict[str, Path]) -> None:
    """The second wall: were a name not escaped, it could still not run, and not call home."""
    text = pages["story"].read_text("utf-8")
    bad = pages["story"].with_name("bad.html")
    hole = f"{SCRIPT}<img src=x onerror='window.__pwned=2'><img src='http://localhost:1/x'>"
    bad.write_text(text.replace("<main>", f"<main>{hole}"), "utf-8")
    show(browser, bad)
    assert run(browser, "return window.__pwned === undefined")
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["story", "hostile", "many"])
def test_only_what_is_wide_scrolls_sideways(browser: Chrome, pages: dict[str, Path], name: str, width: int) -> None:
    show(browser, pages[name], width)
    space, wanted = run(browser, "const it = document.documentElement; return [it.clientWidth, it.scrollWidth]")
    assert width - 20 <= space <= width
    assert wanted <= space


def contrast(first: list[float], second: list[float]) -> float:
    """The contrast ratio of WCAG 2.1 of two sRGB colours."""
    bright, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: list[float]) -> float:
    red, green, blue = (
        it / 12.92 if it <= 0.04045 else ((it + 0.055) / 1.055) ** 2.4 for it in (c / 255 for c in colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_both_colour_schemes_can_be_read(browser: Chrome, pages: dict[str, Path], scheme: str, dark: bool) -> None:
    show(browser, pages["story"], scheme=scheme)
    script = """
        const colour = (it, property) => getComputedStyle(it)[property].match(/[0-9.]+/g).slice(0, 3).map(Number);
        const texts = ['h1', 'dl.facts dt', 'td small', 'p.note', '#totals text'].map(it => document.querySelector(it));
        return [colour(document.body, 'backgroundColor'),
                texts.map(it => colour(it, it.closest('svg') ? 'fill' : 'color'))];"""
    background, texts = run(browser, script)
    assert (sum(background) < 200) == dark
    assert [contrast(background, text) > 4.5 for text in texts] == [True] * len(texts)


def test_it_can_be_printed(browser: Chrome, pages: dict[str, Path]) -> None:
    show(browser, pages["story"], scheme="dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    colours = run(browser, "const it = getComputedStyle(document.body); return [it.color, it.backgroundColor]")
    assert colours == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
    assert browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"].startswith("JVBERi0")
