"""The pages of a run and of a comparison: as files, and in headless Chromium, on a phone and a desk, light and dark."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import tiny
from browsers import chromium
from html_pages import Page
from made_runs import add_score, made_run
from playwright import sync_api as playwright

from vco.cli import main_run, main_vco
from vco.folder import RunFolder
from vco.reporting.report import write_report

CUT = """() => [...document.querySelectorAll('body *')].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width && box.right > innerWidth + 0.5 && !element.closest('.wide, pre, svg');
}).map(element => element.outerHTML.slice(0, 100))"""
"""Elements that reach beyond the right edge, but for those in a part that can be scrolled sideways."""


@pytest.fixture(scope="module")
def browser() -> Generator[Any]:
    assert chromium(), "install Chromium (apt-get install chromium), or leave these tests out with -m 'not browser'"
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of a trained run, of one with odd names, and a comparison of several."""
    place = tmp_path_factory.mktemp("pages")
    assert main_run(tiny.argv(place / "trained", "--train.steps", "3", "--eval.every", "1")) == 0
    names = tuple(f"a class of a long name, number {number}" for number in range(10))
    long_name = "a-run-with-a-very-long-name-" * 4
    odd = made_run(place / long_name, "--train.batch-size", "40", scores={10: 9.0, 20: 4.0}, names=names)
    add_score(odd, 20, 3.0, scale=4.0)
    write_report(RunFolder(odd), "training, after step 20 of 30")
    others = [
        made_run(place / f"vco-{seed}", "--seed", str(seed), scores={10: 5.0, 20: 4.0 + seed}) for seed in range(3)
    ]
    jit = made_run(place / "jit", *tiny.ONE_STREAM, scores={10: 8.0, 20: 7.0})
    assert main_vco(["compare", *map(str, [*others, jit, place / odd]), "--out", str(place / "compare.html")]) == 0
    return {"trained": place / "trained/report.html", "odd": odd / "report.html", "comparison": place / "compare.html"}


@pytest.mark.parametrize("name", ["trained", "odd", "comparison"])
def test_a_page_is_whole_and_asks_for_nothing_outside_it(pages: dict[str, Path], name: str) -> None:
    """What needs no browser, and is looked at wherever the tests run."""
    page, text = Page(pages[name]), pages[name].read_text()
    assert text.lstrip().startswith("<!doctype html>")
    assert ("meta", "charset", "utf-8") in page.attributes
    assert ("meta", "content", "width=device-width, initial-scale=1") in page.attributes
    assert page.values("src")
    assert all(value.startswith("data:image/") for value in page.values("src"))
    assert all(value.startswith("#") for key in ("href", "xlink:href") for value in page.values(key))
    assert "http" not in text.replace("http://www.w3.org/", "")  # names of SVG, which nobody fetches
    assert [part for part in ("<script", "<link", "<iframe", "@import") if part in text] == []
    assert "prefers-color-scheme: dark" in text


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("name", ["trained", "odd", "comparison"])
def test_nothing_is_cut_or_fetched_and_no_error_is_met(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    said, asked = list[str](), list[str]()
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    for details in page.locator("details").all():
        details.evaluate("element => element.open = true")
    assert said == []
    assert [url for url in asked if not url.startswith("data:image/")] == [pages[name].as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT) == []
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    paper, ink = (page.evaluate(f"getComputedStyle(document.body).{key}") for key in ("backgroundColor", "color"))
    label = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert label == ink  # curves are written in the color of the text
    assert (_light(paper) > 0.9, _light(ink) < 0.3) == ((True, True) if scheme == "light" else (False, False))
    context.close()


@pytest.mark.browser
def test_a_curve_that_is_clicked_fills_the_page(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(pages["trained"].as_uri())
    figure = page.locator(".charts figure").first
    before = figure.bounding_box()["width"]
    figure.click()
    assert figure.bounding_box()["width"] > 2 * before
    page.close()


@pytest.mark.browser
def test_text_on_a_phone_is_large_enough_to_read(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(pages["trained"].as_uri())
    heights: list[float] = page.evaluate(
        "[...document.querySelectorAll('.charts svg text')].map(text => text.getBoundingClientRect().height)"
    )
    assert min(heights) >= 8
    page.close()


def _light(color: str) -> float:
    """How light a color is, from 0 to 1: "rgb(255, 255, 255)" is 1."""
    channels = [int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(",")]
    return sum(channels) / (255 * len(channels))
