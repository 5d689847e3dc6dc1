"""The viewer as its users meet it: in a real browser, over a real server, while a sweep runs and afterwards."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.page import evidence
from orchestrator.store.files import read_table
from orchestrator.store.lease import Lease
from orchestrator.store.schemas import GENERATIONS
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.grid import Grid
from tests.browser.pages import ENGINE, Made, Opened, dummy_says, make_study, prompt_set
from tests.browser.test_report import HOSTILE
from tests.viewing import viewing

pytestmark = pytest.mark.browser

Look = Callable[..., Opened]


@pytest.fixture(scope="module")
def address(line_study: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    line_study.report()
    with viewing(line_study.study.out, tmp_path_factory.mktemp("scratch")) as found:
        yield found


def of(made: Made) -> str:
    return f"/sweeps/{made.study.root.name}/{made.folder.name}/"


def responses(opened: Opened, column: int) -> list[str]:
    return opened.page.locator(f".pair > div:nth-child({column + 1}) .response").all_text_contents()  # type: ignore[no-any-return]


def wait(opened: Opened, condition: str) -> None:
    opened.page.wait_for_function(f"() => {condition}", timeout=60_000)  # as a function: the page forbids `eval`


def test_from_the_list_to_two_points_side_by_side(address: str, line_study: Made, look: Look) -> None:
    opened = look(address)
    page = opened.page
    row = page.locator("#sweeps tr")
    assert row.count() == 1
    assert "complete · 124 of 124 tasks" in row.inner_text() and "harmful · default · keyword" in row.inner_text()
    page.locator("#sweeps-text").fill("no such model")
    assert row.count() == 0 and page.locator("#sweeps-count").inner_text() == "0 of 1 sweeps"
    page.locator("#sweeps-text").fill("DUMMY")
    page.locator("#sweeps a").click()
    page.wait_for_url(f"{address}{of(line_study)}")

    opened.points(".safety[aria-label^='α +0.5, direction 2']").focus()
    page.keyboard.press("Enter")
    page.locator("#detail[open] li").first.wait_for()
    grid = line_study.sweep.grid
    asked = line_study.study.prompt_sets.read(line_study.sweep.prompt_set_ids[0])

    def whole(point: Any) -> list[str]:
        return [evidence.display_text(dummy_says(point, prompt, asked), reveal=False) for prompt in asked.prompts]

    assert responses(opened, 0) == whole(grid.at(1, 0.5)) and responses(opened, 1) == whole(grid.at(1, 0.0))
    page.locator("#detail-other").select_option("α −0.3, direction 3 (seed 125)")
    wait(opened, "document.querySelector('.pair > div:nth-child(2) h3').textContent.startsWith('α −0.3, direction 3')")
    assert responses(opened, 1) == whole(grid.at(2, -0.3))
    page.locator("#detail-category").select_option("fraud")
    assert page.locator("#detail-list li").count() == 3
    page.locator("#detail-search").fill("question 3")
    assert page.locator("#detail .prompt").all_text_contents() == [asked.prompts[3].text]
    page.locator("#detail-result").select_option("benign · benign · safety · keyword")
    wait(opened, "document.querySelector('#detail .prompt').textContent.includes('of benign')")
    page.locator("#detail-close").click()
    assert not page.locator("dialog").is_visible()
    opened.blameless(address)


def test_a_search_leads_to_the_point(address: str, line_study: Made, look: Look) -> None:
    opened = look(f"{address}{of(line_study)}")
    page = opened.page
    page.locator("#search-group").select_option("benign")
    page.locator("#search-category").select_option("malware")
    page.locator("#search-outcome").select_option("r")
    page.locator("#search-text").fill("cannot")
    page.locator("#search-text").press("Enter")
    page.locator(".hits li").first.wait_for()
    assert set(page.locator(".hits .outcome").all_text_contents()) == {"refused"}
    assert all("of benign" in text for text in page.locator(".hits .prompt").all_text_contents())
    name = page.locator(".hits button").first.inner_text()
    page.locator(".hits button").first.click()
    page.locator("#detail[open] li").first.wait_for()
    assert page.locator("#detail-title").inner_text() == name
    assert "benign" in page.locator("#detail-result").input_value()
    page.keyboard.press("Escape")
    page.locator("#search-text").fill("nobody said this")
    page.locator("#search button").click()
    wait(opened, "document.querySelector('#search-count').textContent === 'No matching response.'")
    opened.blameless(address)


def test_keyboard_alone(address: str, line_study: Made, look: Look) -> None:
    opened = look(address)
    page = opened.page
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "A":
            break
    page.keyboard.press("Enter")
    page.wait_for_url(f"{address}{of(line_study)}")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('point')"):
            break
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.locator("#detail[open] li").first.wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("α −0.1, direction 1")
    opened.blameless(address)


def test_a_sweep_grows_before_one_s_eyes(tmp_path: Path, look: Look) -> None:
    prompts = prompt_set("harmful", "harmful", "default", 4)
    grid = Grid(steps=10, directions=1)
    made = make_study(tmp_path / "studies", grid, (prompts,), without=lambda point: not point.is_origin)
    whole = make_study(tmp_path / "other", grid, (prompts,))
    rest = read_table(whole.study.generations.parts()[0].path, GENERATIONS)
    record = SweepFolder(made.study, made.folder).read_record()
    record["runs"][0] |= {"outcome": "running", "host": socket.gethostname(), "pid": os.getpid()}
    SweepFolder(made.study, made.folder).write_record(record)
    with viewing(tmp_path / "studies", tmp_path / "scratch") as address:
        with Lease(made.study.out, made.study.lease_path(made.folder)):
            listed = look(address)
            assert "running · 1 of 11 tasks" in listed.page.locator("#sweeps tr").inner_text()
            opened = look(f"{address}{of(made)}")
            assert opened.points().count() == 1
            opened.points().first.focus()
            made.study.generations.write("more", rest.slice(0, 24), ENGINE)
            wait(opened, "document.querySelectorAll('#chart .point').length === 6")
            assert "running · 6 of 11 tasks" in opened.page.locator("#progress-text").inner_text()
            assert "5 of 11 points are missing" in opened.page.locator("#warnings").inner_text()
            assert opened.page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("The origin")
            wait(listed, "document.querySelector('#sweeps').textContent.includes('6 of 11 tasks')")
            made.study.generations.write("all", rest, ENGINE)
        record["runs"][0]["outcome"] = "complete"
        SweepFolder(made.study, made.folder).write_record(record)
        made.report()
        opened.points().nth(10).wait_for(state="attached")
        opened.page.locator("#h-uncertainty").wait_for()
        assert not opened.page.locator("#progress").is_visible()
        opened.blameless(address)
        listed.blameless(address)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_narrow_screens_dark_and_light(dark: bool, address: str, line_study: Made, look: Look) -> None:
    for path in ("/", of(line_study)):
        opened = look(f"{address}{path}", width=360, dark=dark)
        page = opened.page
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(19, 20, 22)") == dark
        if path != "/":
            opened.points().first.click(force=True)
            page.locator("#detail[open] li").first.wait_for()
            assert page.evaluate(
                "document.querySelector('dialog').scrollWidth <= document.querySelector('dialog').clientWidth"
            )
        opened.blameless(address)


def test_hostile_responses_are_harmless(tmp_path: Path, look: Look) -> None:
    prompts = prompt_set("harm</script>", "harmful", '"><script>window.pwned=10</script>', 8, dict(enumerate(HOSTILE)))
    said = {prompt.id: text for prompt, text in zip(prompts.prompts, HOSTILE, strict=True)}
    grid = Grid(steps=2, directions=1)
    made = make_study(
        tmp_path / "studies", grid, (prompts,), says=lambda _, prompt, __: said[prompt.id], model="<b>model"
    )
    made.report()
    with viewing(tmp_path / "studies", tmp_path / "scratch", reveal=True) as address:
        opened = look(address)
        page = opened.page
        assert page.locator("#sweeps a").inner_text() == "<b>model"
        page.locator("#sweeps a").click()
        page.wait_for_url(f"{address}{of(made)}".replace("<", "%3C").replace(">", "%3E"))
        page.locator("#search button").click()
        page.locator(".hits li").first.wait_for()
        page.locator(".hits button").first.click()
        page.locator("#detail[open] li").first.wait_for()
        shown = [evidence.display_text(text, reveal=True) for text in HOSTILE]
        assert [text.replace("\x00", "\ufffd") for text in responses(opened, 0)] == [
            t.replace("\x00", "\ufffd") for t in shown
        ]
        assert page.evaluate("window.pwned") is None
        assert page.locator("dialog img, dialog a, .hits img, .hits a, #sweeps b").count() == 0
        opened.blameless(address)
