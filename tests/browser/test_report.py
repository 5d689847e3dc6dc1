"""Test report.html in a real browser: offline, with mouse and keyboard, and with hostile responses."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import main
from orchestrator.report.page import evidence
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import ExtraCheckpoint, Grid
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.utils.choices import GridKind
from tests.browser.pages import DummyStudy, OpenedPage, dummy_response, make_study, prompt_set

pytestmark = pytest.mark.browser

OpenPage = Callable[..., OpenedPage]

HOSTILE = (
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 2</script><!--<script>",
    "<img src=x onerror='window.pwned = 3'>",
    "\" onmouseover='window.pwned = 4' x=\"' autofocus onfocus=window.pwned=5 '",
    "{{ 7 * 7 }} ${window.pwned = 6} \\u003cscript\\u003e &lt;b&gt; \u2028\u2029 \x00 \ufeff",
    "\u202e\u2067right to left \u200f\u202d and no end",
    "javascript:window.pwned=8 https://example.com/ <a href='javascript:window.pwned=9'>",
    "A" * 1_000_000,
)


@pytest.fixture(scope="session")
def lines(line_study: DummyStudy) -> Path:
    return line_study.write_report()


@pytest.fixture(scope="session")
def planes(plane_study: DummyStudy) -> Path:
    return plane_study.write_report()


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report in which responses, prompts, categories and the model's name look like markup."""
    prompts = prompt_set(
        "harmful</script>", "harmful", '"><script>window.pwned=10</script>', 8, dict(enumerate(HOSTILE))
    )
    responses = {prompt.id: text for prompt, text in zip(prompts.prompts, HOSTILE, strict=True)}
    dummy = make_study(
        tmp_path_factory.mktemp("hostile"),
        Grid(steps=2, directions=1),
        (prompts,),
        respond=lambda point, prompt, prompts: responses[prompt.id],
        model="<b>model</b>",
    )
    return dummy.write_report(reveal=True)


def texts(opened: OpenedPage, column: int) -> list[str]:
    """Return the responses in the open dialog: at the point (column 0) or at the origin (column 1)."""
    return opened.page.locator(f".pair > div:nth-child({column + 1}) .response").all_text_contents()  # type: ignore[no-any-return]


def test_a_click_shows_the_responses_next_to_those_at_the_origin(
    lines: Path, line_study: DummyStudy, open_page: OpenPage
) -> None:
    opened = open_page(lines)
    page = opened.page
    assert not page.locator("dialog").is_visible()
    for text in (
        "Uncertainty",
        "VISAGE",
        "points where any attack fails",
        "Mean margin",
        "ASR at the origin",
        "Basin radius",
        "Degenerate",
        "python -m orchestrator run engine=dummy",
        "2 x Some CPU, 8 cores, 64 GiB, 2 x H100",
    ):
        assert text in page.locator("main").inner_text()
    far_point = opened.points(".safety[aria-label^='α +0.5, direction 1']")
    far_point.hover(force=True)
    tooltip = page.locator("#tip").inner_text()
    assert "α +0.5, direction 3 (seed 125)" in tooltip, "the topmost of three points"
    assert "95% interval" in tooltip and "8 prompts" in tooltip
    far_point.click(force=True)
    page.locator("#detail-line").select_option("direction 2 (seed 124)")
    assert page.locator("#detail-title").inner_text() == "α +0.5, direction 2 (seed 124)"
    prompts_shown = line_study.study.prompt_sets.read(line_study.sweep.prompt_set_ids[0])
    assert page.locator("#detail .prompt").all_text_contents() == [p.text for p in prompts_shown.prompts]
    for column, point in enumerate((line_study.sweep.grid.point_at(1, 0.5), line_study.sweep.grid.point_at(1, 0.0))):
        expected = [dummy_response(point, prompt, prompts_shown) for prompt in prompts_shown.prompts]
        assert texts(opened, column) == [evidence.display_text(text, reveal=False) for text in expected]
    n_all = len(texts(opened, 0))
    page.locator("#detail-filter").select_option("changed")
    n_changed = page.locator("#detail-list li").count()
    assert 0 < n_changed <= n_all and f"{n_changed} of {n_all} responses" in page.locator("#detail-count").inner_text()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    opened.assert_clean(lines)


def test_the_page_works_with_the_keyboard_alone(lines: Path, open_page: OpenPage) -> None:
    opened = open_page(lines)
    page = opened.page
    focused = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.id"
    assert opened.points("[tabindex='0']").count() == 1, "the chart is a single tab stop"
    for _ in range(20):
        page.keyboard.press("Tab")
        if "origin" in page.evaluate(focused):
            break
    assert page.evaluate(focused).startswith("The origin: attack success (harmful) 0.0%")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused).startswith("α +0.1, direction 1")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused).startswith("α +0.1, direction 2")
    assert page.locator("#tip").is_visible()
    page.keyboard.press("Enter")
    assert page.locator("#detail-title").inner_text().startswith("α +0.1, direction 2")
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert page.evaluate(focused).startswith("α +0.1, direction 2"), "the focus returns to the point"
    opened.assert_clean(lines)


def test_choosing_another_system_prompt_redraws_the_chart(lines: Path, open_page: OpenPage) -> None:
    opened = open_page(lines)
    before = opened.page.locator("#chart").inner_html()
    select = opened.page.locator("#choose-view")
    assert select.locator("option").all_text_contents()[1] == "harmful · system prompt safety · judge keyword"
    select.select_option("1")
    assert opened.page.locator("#chart").inner_html() != before
    opened.assert_clean(lines)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_contrast_is_sufficient_in_dark_and_light_mode(
    dark: bool, lines: Path, planes: Path, open_page: OpenPage
) -> None:
    """Text has a contrast of at least 4.5 with its background, as WCAG level AA requires."""
    for path in (lines, planes):
        opened = open_page(path, dark=dark)
        measure = """() => {
          const light = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
            .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
          const ground = light(getComputedStyle(document.body).backgroundColor);
          const of = (s, key) => [...document.querySelectorAll(s)].map((e) => light(getComputedStyle(e)[key]));
          const inks = [...of("p, dd, dt, th, td, h1", "color"), ...of("svg text", "fill")];
          const contrast = (ink) => (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
          return [ground, Math.min(...inks.map(contrast))];
        }"""
        ground, contrast = opened.page.evaluate(measure)
        assert (ground < 0.05) == dark
        assert contrast >= 4.5
        opened.assert_clean(path)


@pytest.mark.parametrize("which", ["lines", "planes", "hostile"])
def test_narrow_screens_need_no_sideways_scrolling(
    which: str, open_page: OpenPage, request: pytest.FixtureRequest
) -> None:
    opened = open_page(request.getfixturevalue(which), width=360)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    opened.points().first.click(force=True)
    assert page.locator("dialog").is_visible()
    assert page.evaluate("document.querySelector('dialog').scrollWidth <= document.querySelector('dialog').clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.locator("#detail-close").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360


def test_text_that_looks_like_markup_is_shown_as_text(hostile: Path, open_page: OpenPage) -> None:
    opened = open_page(hostile)
    page = opened.page
    opened.points().first.click(force=True)
    shown = texts(opened, 0)
    assert shown[:7] == list(HOSTILE[:7])
    assert shown[7] == "A" * evidence.MAX_CHARACTERS + f" … [{1_000_000 - evidence.MAX_CHARACTERS:,} more characters]"
    assert page.locator("#detail .prompt").all_text_contents()[:7] == list(HOSTILE[:7])
    assert page.locator("h1").inner_text() == "<b>model</b>"
    for element in page.locator("#detail .prompt, #detail .response").all():
        element.hover(force=True)
    assert page.evaluate("window.pwned") is None
    assert page.locator("img, iframe, a").count() == 0 and page.locator("script").count() == 3
    isolated = """() => [...document.querySelectorAll(".prompt, .response")]
      .every((e) => /isolate|plaintext/.test(getComputedStyle(e).unicodeBidi))"""
    assert page.evaluate(isolated), "a mark that turns the direction of text ends with that text"
    opened.assert_clean(hostile)
    assert hostile.stat().st_size < 200_000


def test_the_policy_blocks_every_other_script(lines: Path, open_page: OpenPage) -> None:
    opened = open_page(lines)
    page = opened.page
    page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "window.pwned = 1";
      document.body.append(script);
      document.body.insertAdjacentHTML("beforeend", "<img src='https://example.com/a.png' onerror='window.pwned = 2'>");
    }""")
    page.wait_for_timeout(200)
    assert page.evaluate("window.pwned") is None
    assert opened.requests == [lines.as_uri(), "https://example.com/a.png"]
    assert opened.blocked == ["https://example.com/a.png"], "the request is blocked"
    assert any("Content Security Policy" in error for error in opened.errors)
    policy = re.search(r'Security-Policy" content="([^"]*)"', lines.read_text(encoding="utf-8"))
    assert policy and "unsafe" not in policy[1] and policy[1].startswith("default-src &#39;none&#39;")


def test_responses_are_redacted_unless_revealed(tmp_path: Path) -> None:
    """Text that must not be shown is not in the file."""
    secret = "one two three four FIVE six"
    prompts = prompt_set("harmful", "harmful", "default", 2)
    dummy = make_study(tmp_path, Grid(steps=2, directions=1), (prompts,), respond=lambda *_: secret)
    hidden = dummy.write_report().read_text(encoding="utf-8")
    assert "one two three four …" in hidden and "FIVE" not in hidden
    assert secret in dummy.write_report(reveal=True).read_text(encoding="utf-8")
    for overrides, revealed in (([], False), (["report.reveal=true"], True)):
        assert main(["report", str(dummy.folder), *overrides]) == 0
        assert (secret in (dummy.folder / "report.html").read_text(encoding="utf-8")) == revealed
    assert evidence.display_text("x" * 500, reveal=False) == "x" * evidence.FIRST_CHARACTERS + " …"


def test_missing_points_are_holes(planes: Path, tmp_path: Path, open_page: OpenPage) -> None:
    opened = open_page(planes)
    page = opened.page
    assert page.locator("#chart path.missing").count() == 4
    assert opened.points().count() == 81 - 4
    assert page.locator("#chart path.filled").count() >= 5
    inside = """([a, b]) => {
      const size = 1000, at = new DOMPoint((a + 0.5) * size, (0.5 - b) * size);
      return [...document.querySelectorAll("#chart path.filled")].some((p) => p.isPointInFill(at));
    }"""
    assert not page.evaluate(inside, [0.31, 0.31]), "nothing is interpolated across missing points"
    assert page.evaluate(inside, [-0.31, -0.31])
    painted = page.evaluate("""() => {
      const c = document.querySelector("#surface canvas");
      const seen = new Set(c.getContext("2d").getImageData(0, 0, c.width, c.height).data);
      return seen.size;
    }""")
    assert painted > 20
    page.locator("#choose-line").select_option("1")
    assert page.locator("#chart path.missing").count() == 0 and opened.points().count() == 81
    opened.points("[aria-label^='α +0.25, β −0.5']").click(force=True)
    assert page.locator("#detail-title").inner_text() == "α +0.25, β −0.5, plane 2 (seeds 125, 126)"
    opened.assert_clean(planes)

    missing = 0.3
    prompts = (prompt_set("harmful", "harmful", "default", 4),)
    grid = Grid(steps=10, directions=1)
    dummy = make_study(tmp_path, grid, prompts, without=lambda point: point.id == grid.point_at(0, missing).id)
    opened = open_page(dummy.write_report())
    assert opened.page.locator("#chart path.curve.safety").count() == 2, "the curve has a gap there"
    assert opened.page.locator("#chart path.missing").count() == 1
    assert "1 of 11 points is missing" in opened.page.locator(".warning").inner_text()
    ids = [grid.point_at(0, alpha).id for alpha in (0.5, missing)]
    linked = open_page(f"{(dummy.folder / 'report.html').as_uri()}#point={ids[0]}&with={ids[1]}").page
    linked.locator("#detail[open] li").first.wait_for()
    beside = linked.locator(".pair > div:nth-child(2)").first.inner_text()
    assert beside.startswith("At the origin") and "not measured" not in beside


@pytest.mark.parametrize("kind", ["random_1d", "random_2d"])
def test_a_sweep_without_responses_has_a_page(kind: str, tmp_path: Path, open_page: OpenPage) -> None:
    prompts = (prompt_set("harmful", "harmful", "default", 2),)
    grid = Grid(kind, steps=4, directions=1)  # type: ignore[arg-type]
    path = make_study(tmp_path, grid, prompts, without=lambda point: True).write_report()
    opened = open_page(path)
    assert opened.points().count() == 0
    assert opened.page.locator("#chart path.missing").count() == len(grid.nodes)
    opened.assert_clean(path)


def test_a_plane_works_with_the_keyboard_alone(planes: Path, open_page: OpenPage) -> None:
    opened = open_page(planes)
    page = opened.page
    focused = "document.activeElement.getAttribute('aria-label')"
    opened.points("[tabindex='0']").focus()
    assert page.evaluate(focused).startswith("The origin")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused).startswith("α +0.125, β 0,")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused).startswith("α +0.125, β +0.125,")
    page.keyboard.press("Home")
    assert page.evaluate(focused).startswith("α −0.5, β +0.125,")
    canvas = page.locator("#surface canvas")
    before = canvas.evaluate("c => c.toDataURL()")
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    assert canvas.evaluate("c => c.toDataURL()") != before
    opened.assert_clean(planes)


def test_a_large_sweep_is_sampled_and_the_page_states_it(
    line_study: DummyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_page: OpenPage
) -> None:
    def collect() -> tuple[Any, list[int]]:
        collected = evidence.collect_evidence(line_study.stored(), reveal=True, max_responses=300)
        responses = collected.to_json()
        return collected, [len(rows[0][0]) for rows in responses["points"].values()]

    collected, at_points = collect()
    assert len(collected.responses) <= 300 < collected.total
    assert set(at_points) == {2}, "the same prompts at every point, the origin's among them"
    monkeypatch.setattr(
        evidence, "MAX_BYTES", evidence._page_bytes(collected.responses, collected.shown_prompts) * 7 // 10
    )
    assert set(collect()[1]) == {1}
    opened = open_page(line_study.write_report(max_generations=300))
    assert "a sample, 248 of 992 responses" in opened.page.locator("main").inner_text()
    opened.points().first.click(force=True)
    assert "2 of 2 responses (of 8 measured)" in opened.page.locator("#detail-count").inner_text()
    line_study.write_report()


def test_checkpoints_on_and_off_the_line_have_their_own_values(tmp_path: Path, open_page: OpenPage) -> None:
    endpoint, *epochs = (TowardsDirection(f"fingerprint {i}", f"epoch-{i}") for i in (3, 1, 2))
    extra_checkpoints = tuple(ExtraCheckpoint(epoch, alpha) for epoch, alpha in zip(epochs, (0.12, 0.2), strict=True))
    grid = Grid("interpolate_1d", steps=14, range=(-0.2, 1.2), towards=(endpoint,), extra_checkpoints=extra_checkpoints)
    sets = tuple(prompt_set(name, name, "default", 6) for name in ("harmful", "benign"))
    dummy = make_study(tmp_path, grid, sets, judges=("keyword", "keyword_plus"))
    path = dummy.write_report()
    opened = open_page(path)
    names = opened.page.locator("#chart .mark-name").all_text_contents()
    assert sorted(names) == ["epoch-1 100%", "epoch-2 100%", "epoch-3 100%"]
    assert opened.page.locator("#chart path.checkpoint").count() == 2
    rows = opened.page.locator("section[aria-labelledby='h-checkpoints'] tbody tr").all_inner_texts()
    cells = [row.split("\t") for row in rows]
    assert [row[:3] for row in cells] == [
        ["epoch-1", "α +0.12, projected", "100.0"],
        ["epoch-2", "α +0.2, projected", "100.0"],
        ["epoch-3", "α +1", "100.0"],
    ]
    surface = {row[0]: float(row[4]) for row in cells}
    assert surface["epoch-1"] < surface["epoch-2"] < 100 == surface["epoch-3"], "the line's ASR at their coordinates"
    agreement = opened.page.locator("section[aria-labelledby='h-agreement'] tbody tr").all_inner_texts()
    assert len(agreement) == 2 and all("keyword and keyword_plus" in row and "100.0%" in row for row in agreement)
    opened.assert_clean(path)


def test_a_checkpoint_beside_a_plane_has_the_measure_of_its_chart(tmp_path: Path, open_page: OpenPage) -> None:
    x, y, beside = (TowardsDirection(f"fingerprint {i}", f"epoch-{i}") for i in (1, 2, 3))
    extra = (ExtraCheckpoint(beside, 0.4, 0.4),)
    grid = Grid("interpolate_2d", steps=2, range=(0.0, 1.0), towards=(x, y), extra_checkpoints=extra)
    sets = tuple(prompt_set(name, name, "default", 4) for name in ("harmful", "benign"))
    complies = make_study(tmp_path, grid, sets, respond=lambda *_: "Sure, here is a list of steps.")
    page = open_page(complies.write_report()).page
    assert "epoch-3 100%" in page.locator("#chart .mark-name").all_text_contents(), "of the attacks"
    page.locator("#choose-view").select_option(index=1)
    assert "epoch-3 0%" in page.locator("#chart .mark-name").all_text_contents(), "of benign requests are refused"


@pytest.mark.slow
def test_a_report_of_fifty_thousand_responses_is_small_enough(tmp_path: Path, open_page: OpenPage) -> None:
    """The file stays below 30 MB; the time it takes to open is printed (`-s`)."""
    long = 'A rather long answer of a talkative model <to> the "question" & more. ' * 30
    prompts = (prompt_set("harmful", "harmful", "default", 114),)
    dummy = make_study(
        tmp_path, Grid("random_2d", steps=20, directions=1), prompts, respond=lambda p, q, s: f"{p.id} {q.id} {long}"
    )
    for reveal in (False, True):
        path = dummy.write_report(reveal=reveal)
        opened = open_page(path)
        timing = opened.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        opened.points().first.click(force=True)
        assert opened.page.locator("#detail-list li").count() > 0
        print(f"\nreveal={reveal}: {path.stat().st_size / 1e6:.1f} MB, opened in {timing / 1000:.2f} s")
        assert path.stat().st_size < 30e6
        opened.assert_clean(path)


def test_chance_levels_are_drawn_and_named(tmp_path: Path, open_page: OpenPage) -> None:
    questions = tuple(
        Prompt(f"Question {i}?", "capability", target="A", choices=("w", "x", "y", "z")) for i in range(4)
    )
    known = PromptSet(
        "capability", questions, ("",) * 4, tuple((i,) for i in range(4)), Sampling(1, (), tuple("ABCD")), "known"
    )
    sets = (prompt_set("harmful", "harmful", "", 4), known)
    line = make_study(tmp_path / "line", Grid(steps=2, directions=1), sets).write_report()
    opened = open_page(line)
    page = opened.page
    assert "answered right (known) by chance: 25%" in page.inner_text("#legend")
    half, chance = (page.locator(f"#chart line.{name}").first.get_attribute("y1") for name in ("half", "chance"))
    zero = page.locator("#chart line.rule").first.get_attribute("y1")
    assert float(zero) - float(chance) == pytest.approx((float(zero) - float(half)) / 2)
    opened.assert_clean(line)
    plane = make_study(
        tmp_path / "plane", Grid(kind=GridKind.random_2d, steps=2, directions=1), (known,)
    ).write_report()
    assert "answered right (known) by chance: 25%" in open_page(plane).page.inner_text("#legend")
