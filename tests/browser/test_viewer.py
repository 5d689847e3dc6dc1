"""Test the viewer in a real browser and with a real server, during a sweep and after it."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.schema import ReportConfig
from orchestrator.report.page import evidence
from orchestrator.report.viewer.bundle import write_bundle
from orchestrator.report.viewer.catalog import StudyCatalog
from orchestrator.report.viewer.sweep_list import Listing
from orchestrator.store.files import read_table
from orchestrator.store.human_verdicts import read_verdicts
from orchestrator.store.lease import Lease
from orchestrator.store.schemas import GENERATIONS
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.sweep.grid import Grid
from tests.browser.pages import ENGINE, DummyStudy, OpenedPage, dummy_response, make_study, prompt_set
from tests.browser.test_report import HOSTILE
from tests.viewing import viewing

pytestmark = pytest.mark.browser

OpenPage = Callable[..., OpenedPage]


@pytest.fixture(scope="module")
def address(line_study: DummyStudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    line_study.write_report()
    with viewing(line_study.study.out, tmp_path_factory.mktemp("scratch")) as url:
        yield url


def path_of(dummy: DummyStudy) -> str:
    return f"/sweeps/{dummy.study.root.name}/{dummy.folder.name}/"


def responses(opened: OpenedPage, column: int) -> list[str]:
    return opened.page.locator(f".pair > div:nth-child({column + 1}) .response").all_text_contents()  # type: ignore[no-any-return]


def wait(opened: OpenedPage, condition: str) -> None:
    opened.page.wait_for_function(
        f"() => {condition}", timeout=60_000
    )  # passed as a function, because the page forbids `eval`


def test_a_list_that_lacks_sweeps_says_how_many_have_been_read(
    address: str, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for total, text in ((None, "reading the sweeps"), (1200, "reading 0 of 1,200 sweeps")):
        with monkeypatch.context() as patch:
            patch.setattr(StudyCatalog, "listing", lambda _, total=total: Listing([], total))
            opened = open_page(address)
            assert opened.page.locator("#sweeps-count").inner_text() == text
        wait(opened, "document.querySelector('#sweeps-count').textContent === '1 of 1 sweeps'")
        assert opened.page.locator("#sweeps tr").count() == 1


def test_the_list_leads_to_a_sweep_and_two_points_side_by_side(
    address: str, line_study: DummyStudy, open_page: OpenPage
) -> None:
    opened = open_page(address)
    page = opened.page
    row = page.locator("#sweeps tr")
    row.wait_for()
    assert row.count() == 1
    assert "complete · 124 of 124 tasks" in row.inner_text() and "harmful · default · keyword" in row.inner_text()
    page.locator("#sweeps-text").fill("no such model")
    assert not row.is_visible() and page.locator("#sweeps-count").inner_text() == "0 of 1 sweeps"
    page.locator("#sweeps-text").fill("DUMMY")
    page.locator("#sweeps a").click()
    page.wait_for_url(f"{address}{path_of(line_study)}")

    opened.points(".safety[aria-label^='α +0.5, direction 2']").focus()
    page.keyboard.press("Enter")
    page.locator("#detail[open] li").first.wait_for()
    grid = line_study.sweep.grid
    prompts_shown = line_study.study.prompt_sets.read(line_study.sweep.prompt_set_ids[0])

    def expected_responses(point: Any) -> list[str]:
        return [
            evidence.display_text(dummy_response(point, prompt, prompts_shown), reveal=False)
            for prompt in prompts_shown.prompts
        ]

    assert responses(opened, 0) == expected_responses(grid.point_at(1, 0.5)) and responses(
        opened, 1
    ) == expected_responses(grid.point_at(1, 0.0))
    page.locator("#detail-other").select_option("α −0.3, direction 3 (seed 125)")
    wait(opened, "document.querySelector('.pair > div:nth-child(2) h3').textContent.startsWith('α −0.3, direction 3')")
    assert responses(opened, 1) == expected_responses(grid.point_at(2, -0.3))
    page.locator("#detail-category").select_option("fraud")
    assert page.locator("#detail-list li").count() == 3
    page.locator("#detail-search").fill("question 3")
    assert page.locator("#detail .prompt").all_text_contents() == [prompts_shown.prompts[3].text]
    page.locator("#detail-result").select_option("benign · benign · safety · keyword")
    wait(opened, "document.querySelector('#detail .prompt').textContent.includes('of benign')")
    page.locator("#detail-close").click()
    assert not page.locator("dialog").is_visible()
    opened.assert_clean(address)


def test_a_search_result_opens_its_point(address: str, line_study: DummyStudy, open_page: OpenPage) -> None:
    opened = open_page(f"{address}{path_of(line_study)}")
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
    page.locator("#search-text").fill("nobody wrote this")
    page.locator("#search button").click()
    wait(opened, "document.querySelector('#search-count').textContent === 'No matching response.'")
    opened.assert_clean(address)


def test_tables_are_sorted_and_filtered_and_the_address_says_how(
    line_study: DummyStudy, tmp_path: Path, open_page: OpenPage
) -> None:
    studies = tmp_path / "studies"
    grid, sets = Grid(steps=2, directions=1), (prompt_set("harmful", "harmful", "default", 3),)
    refusal = "I cannot do that."
    for model, origin in (("b", "no."), ("a", refusal), ("c", "Sure, here is a list.")):

        def respond(point: Any, prompt: Any, prompts: Any, origin: str = origin) -> str:
            return origin if point.is_origin else refusal

        made = make_study(studies, grid, sets, respond, model=model)
        if model != "c":
            made.write_report()  # without one there are no numbers to sort by
    with viewing(studies, tmp_path / "scratch") as address:
        opened = open_page(address)
        page = opened.page
        page.locator("#sweeps tr").nth(2).wait_for()
        before = page.locator("#sweeps a").all_text_contents()
        heading = page.locator("#sweeps-table th", has_text="ASR at the origin")
        orders = []
        for _ in range(3):
            heading.locator("button").click()
            orders.append((heading.get_attribute("aria-sort"), page.locator("#sweeps a").all_text_contents()))
        assert orders == [("ascending", ["a", "b", "c"]), ("descending", ["b", "a", "c"]), (None, before)]
        for model in ("b", "c"):
            page.locator(f"#sweeps input[value^='{model}-']").check()
        page.locator("#compare button").click()
        page.wait_for_url(f"{address}/compare?*")
        assert {text[3:] for text in page.locator(".columns h2").all_text_contents()} == {"b", "c"}
        assert "cannot be compared by numbers" in page.inner_text(".warning")  # c has no results
        page.locator(".kicker a").click()
        page.wait_for_url(f"{address}/")
        page.locator("#sweeps-table th", has_text="Sweep").locator("button").click()
        page.locator("#sweeps-text").fill("HARMFUL")
        other = open_page(opened.address)
        assert other.page.locator("#sweeps a:visible").all_text_contents() == ["a", "b"]
        assert other.page.locator("#sweeps-count").inner_text() == "2 of 3 sweeps"
        other.assert_clean(address)
        opened.assert_clean(address)


def test_an_address_names_a_point_a_comparison_a_response_and_a_search(
    address: str, line_study: DummyStudy, open_page: OpenPage
) -> None:
    opened = open_page(f"{address}{path_of(line_study)}")
    page = opened.page
    page.locator("#choose-view").select_option("harmful · system prompt safety · judge keyword")
    opened.points(".safety[aria-label^='α +0.5, direction 2']").click(force=True)
    page.locator("#detail[open] li").first.wait_for()
    page.locator("#detail-other").select_option("α −0.3, direction 3 (seed 125)")
    wait(opened, "document.querySelector('.pair > div:nth-child(2) h3').textContent.startsWith('α −0.3, direction 3')")
    page.locator("#detail-category").select_option("malware")
    page.locator("#detail-numbers").click()
    for key in ("j", "ArrowRight", "j", "k"):
        page.keyboard.press(key)
    assert page.locator("#detail-place").inner_text() == "2 of 3"
    assert page.locator("#detail-previous").is_enabled() and page.locator("#detail-next").is_enabled()
    page.locator("#detail-next").click()
    assert page.locator("#detail-next").is_disabled()

    def shown(opened: OpenedPage) -> list[str]:
        opened.page.locator("#detail li[aria-current]").wait_for()
        names = ("#choose-view", "#detail-result", "#detail-other", "#detail-category")
        chosen = [opened.page.locator(f"{name} option:checked").inner_text() for name in names]
        return [opened.page.inner_text("#detail-title"), *chosen, opened.page.inner_text("#detail li[aria-current]")]

    link, before = opened.address, shown(opened)
    assert "Question 7 of harmful" in before[-1] and before[1].startswith("harmful · system prompt safety")
    other = open_page(link)
    assert shown(other) == before
    other.page.keyboard.press("Escape")
    wait(other, "!location.hash.includes('point')")
    other.page.evaluate("link => location.assign(link)", link)  # as if it were typed into the address bar
    assert shown(other) == before
    report = open_page(f"{(line_study.folder / 'report.html').as_uri()}#{link.partition('#')[2]}")
    assert shown(report) == before
    other.page.evaluate("location.hash = '#point=nowhere'")
    other.page.locator("#link-note").wait_for()
    assert not other.page.locator("#detail").is_visible()

    page.keyboard.press("Escape")
    page.locator("#search-outcome").select_option("r")
    page.locator("#search-text").fill("question 5")
    page.locator("#search button").click()
    page.locator(".hits li").first.wait_for()
    found = open_page(opened.address)
    found.page.locator(".hits li").first.wait_for()
    assert found.page.inner_text("#search-count") == page.inner_text("#search-count")
    assert found.page.inner_text(".hits") == page.inner_text(".hits")
    found.page.locator(".hits button").first.click()
    assert "Question 5 of" in shown(found)[-1]
    for each in (opened, other, found):
        each.assert_clean(address)


def test_a_viewer_that_does_not_answer_is_named_and_asked_again(
    address: str, line_study: DummyStudy, open_page: OpenPage
) -> None:
    page = open_page(f"{address}{path_of(line_study)}").page
    for path in ("**/prompts", "**/search?*"):
        page.route(path, lambda route: route.abort(), times=1)
    point = page.locator("#chart .point.safety[aria-label^='α +0.5, direction 2']")
    point.click(force=True)
    page.locator("#link-note", has_text="The responses cannot be read").wait_for()
    point.click(force=True)
    page.locator("#detail[open] li").first.wait_for()
    assert not page.locator("#link-note").is_visible()
    page.keyboard.press("Escape")
    page.locator("#search button").click()
    page.locator("#search-count", has_text="Not searched").wait_for()
    page.locator("#search button").click()
    page.locator(".hits li").first.wait_for()


def test_keys_judge_whole_responses(tmp_path: Path, open_page: OpenPage) -> None:
    prompts = prompt_set("harmful", "harmful", "default", 4)
    long = "I cannot help with any such request, whoever asks. <img src=x onerror='window.pwned = 1'>"
    dummy = make_study(tmp_path / "studies", Grid(steps=2, directions=1), (prompts,), lambda *_: long)
    dummy.write_report()
    token = "a-token-of-some-length"
    with viewing(tmp_path / "studies", tmp_path / "scratch", token=token) as address:
        point = dummy.sweep.grid.point_at(0, 0.5).id
        opened = open_page(f"{address}{path_of(dummy)}?token={token}#point={point}")
        page, note = opened.page, opened.page.locator("#annotate-note")
        page.locator("#detail[open] li").first.wait_for()
        assert page.inner_text("#detail-title").startswith("α +0.5") and "token" not in opened.address
        assert set(responses(opened, 0)) == {"I cannot help with …"}
        page.keyboard.press("c")
        assert note.inner_text().startswith("Point to a response")
        page.keyboard.press("j")
        page.keyboard.press("c")
        assert note.inner_text().startswith("Tick “Whole responses” first")
        page.locator("#reveal").check()
        wait(opened, "document.querySelector('.response').textContent.endsWith('>')")
        assert page.locator("#detail-place").inner_text() == "1 of 4" and set(responses(opened, 0)) == {long}
        page.keyboard.press("c")  # the switch has the focus
        assert note.inner_text().startswith("Write your name")
        page.locator("#annotator").fill("<i>Ann")
        page.locator("#detail-numbers").click()
        for place, key in enumerate("cdu", 2):
            page.keyboard.press(key)
            wait(opened, f"document.querySelector('#detail-place').textContent === '{place} of 4'")
        page.locator("#annotate button", has_text="refused").click()
        wait(opened, "document.querySelectorAll('.people').length === 4")
        assert page.locator(".people").all_text_contents() == [
            f"<i>Ann: {verdict}" for verdict in ("complied", "degenerate", "unclear", "refused")
        ]
        given = {verdict.prompt_id: verdict.verdict for verdict in read_verdicts(dummy.study)}
        assert given[prompts.prompts[1].id] == "degenerate" and len(given) == 4
        page.keyboard.press("Escape")
        page.locator("#search button").click()
        page.locator(".hits li").first.wait_for()
        assert page.locator(".hits .response").first.inner_text() == long
        assert page.evaluate("window.pwned") is None
        opened.assert_clean(address)


def test_a_bundle_works_as_files(line_study: DummyStudy, tmp_path: Path, open_page: OpenPage) -> None:
    line_study.write_report()
    bundle = tmp_path / "bundle"
    assert write_bundle(StudyCatalog(line_study.study.out, tmp_path / "scratch"), bundle, ReportConfig()) == []
    opened = open_page(bundle / "index.html")
    page = opened.page
    assert page.locator("#sweeps-count").inner_text() == "1 of 1 sweeps"
    page.locator("#sweeps a").click()
    page.wait_for_url(f"{bundle.as_uri()}{path_of(line_study)}index.html")
    opened.points().first.click(force=True)
    page.locator("#detail[open] li").first.wait_for()
    linked = open_page(opened.address)
    linked.page.locator("#detail[open] li").first.wait_for()
    assert linked.page.inner_text("#detail-title") == page.inner_text("#detail-title")
    page.keyboard.press("Escape")
    page.locator(".kicker a").click()
    page.wait_for_url(f"{bundle.as_uri()}/index.html")
    assert opened.errors == [] and all(url.startswith(bundle.as_uri()) for url in opened.requests)


def test_the_viewer_works_with_the_keyboard_alone(address: str, line_study: DummyStudy, open_page: OpenPage) -> None:
    opened = open_page(address)
    page = opened.page
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "A":
            break
    page.keyboard.press("Enter")
    page.wait_for_url(f"{address}{path_of(line_study)}")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('point')"):
            break
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.locator("#detail[open] li").first.wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("α −0.1, direction 1")
    opened.assert_clean(address)


def test_the_page_of_a_running_sweep_updates_itself(tmp_path: Path, open_page: OpenPage) -> None:
    prompts = prompt_set("harmful", "harmful", "default", 4)
    grid = Grid(steps=10, directions=1)
    dummy = make_study(tmp_path / "studies", grid, (prompts,), without=lambda point: not point.is_origin)
    complete = make_study(tmp_path / "other", grid, (prompts,))
    rest = read_table(complete.study.generations.parts()[0].path, GENERATIONS)
    folder = SweepFolder(dummy.study, dummy.folder)
    record = folder.read_record()
    (run,) = record.runs
    running = dataclasses.replace(run, outcome="running", host=socket.gethostname(), pid=os.getpid())
    folder.write_record(dataclasses.replace(record, runs=(running,)))
    with viewing(tmp_path / "studies", tmp_path / "scratch") as address:
        with Lease(dummy.study.out, folder.lease_path()):
            list_page = open_page(address)
            assert "running · 1 of 11 tasks" in list_page.page.locator("#sweeps tr").inner_text()
            opened = open_page(f"{address}{path_of(dummy)}")
            assert opened.points().count() == 1
            opened.points().first.focus()
            dummy.study.generations.write("more", rest.slice(0, 24), ENGINE)
            wait(opened, "document.querySelectorAll('#chart .point').length === 6")
            assert "running · 6 of 11 tasks" in opened.page.locator("#progress-text").inner_text()
            assert "5 of 11 points are missing" in opened.page.locator("#warnings").inner_text()
            assert "over the 2 of 6 points where any attack fails" in opened.page.locator("#tiles").inner_text()
            assert opened.page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("The origin")
            wait(list_page, "document.querySelector('#sweeps').textContent.includes('6 of 11 tasks')")
            dummy.study.generations.write("all", rest, ENGINE)
        folder.write_record(record)
        dummy.write_report()
        opened.points().nth(10).wait_for(state="attached")
        opened.page.locator("#h-uncertainty").wait_for()
        assert not opened.page.locator("#progress").is_visible()
        opened.assert_clean(address)
        list_page.assert_clean(address)


def test_print_and_narrow_screens_hide_nothing_to_the_right(
    address: str, line_study: DummyStudy, open_page: OpenPage
) -> None:
    for path in ("/", path_of(line_study)):
        opened = open_page(f"{address}{path}", width=420)
        for width, media in ((420, "screen"), (680, "print")):  # A4 with narrow margins
            opened.page.set_viewport_size({"width": width, "height": 900})
            opened.page.emulate_media(media=media)
            cut = opened.page.evaluate(
                "[...document.querySelectorAll('td, th, svg, dd, p')].filter((each) => each.getClientRects().length)"
                ".filter((each) => each.getBoundingClientRect().right > innerWidth + 1).map((each) => each.outerHTML)"
            )
            assert cut == [], (path, media)
            blank = (
                "[...document.querySelectorAll('.cards td')].filter((each) => each.getClientRects().length)"
                ".filter((each) => !each.innerText.trim()).length"
            )
            assert media == "print" or opened.page.evaluate(blank) == 0, path


def test_printed_page_keeps_its_explanations_and_ranks_its_headings(
    address: str, line_study: DummyStudy, open_page: OpenPage
) -> None:
    page = open_page(f"{address}{path_of(line_study)}", width=680).page
    page.emulate_media(media="print")
    sizes = (
        "(name) => [...document.querySelectorAll(`main ${name}`)].map((e) => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(page.evaluate(sizes, "h2")) > max(page.evaluate(sizes, "h3"))
    hints = page.locator("section > .hint:not(.no-print)")
    assert hints.count() and all(hint.is_visible() for hint in hints.all())
    assert not page.get_by_text("Click a point to compare").is_visible()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_narrow_screens_need_no_sideways_scrolling_in_dark_and_light_mode(
    dark: bool, address: str, line_study: DummyStudy, open_page: OpenPage
) -> None:
    for path in ("/", path_of(line_study)):
        opened = open_page(f"{address}{path}", width=360, dark=dark)
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
        opened.assert_clean(address)


def test_hostile_responses_are_harmless(tmp_path: Path, open_page: OpenPage) -> None:
    prompts = prompt_set("harm</script>", "harmful", '"><script>window.pwned=10</script>', 8, dict(enumerate(HOSTILE)))
    responses_by_id = {prompt.id: text for prompt, text in zip(prompts.prompts, HOSTILE, strict=True)}
    grid = Grid(steps=2, directions=1)
    dummy = make_study(
        tmp_path / "studies",
        grid,
        (prompts,),
        respond=lambda _, prompt, __: responses_by_id[prompt.id],
        model="<b>model",
    )
    dummy.write_report()
    with viewing(tmp_path / "studies", tmp_path / "scratch", reveal=True) as address:
        opened = open_page(address)
        page = opened.page
        assert page.locator("#sweeps a").inner_text() == "<b>model"
        page.locator("#sweeps a").click()
        page.wait_for_url(f"{address}{path_of(dummy)}".replace("<", "%3C").replace(">", "%3E"))
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
        opened.assert_clean(address)
