"""Fixtures: dummy studies, and a real Chromium that opens their pages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.sweep.grid import Grid
from orchestrator.utils.choices import GridKind
from tests.browser.pages import DummyStudy, OpenedPage, make_study, prompt_set

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start one Chromium for all tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra `dev`)")
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., OpenedPage]]:
    """Return a function that opens a file or an address in a new page and records what happens there."""
    contexts = []

    def open_in_browser(
        path: Path | str, width: int = 1200, height: int = 900, dark: bool = False, **options: Any
    ) -> OpenedPage:
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        contexts.append(context)
        opened = OpenedPage(context.new_page())

        def record_blocked(request: Any) -> None:
            if request.failure == "csp":
                opened.blocked.append(request.url)

        opened.page.on("console", lambda message: opened.errors.append(message.text))
        opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.on("requestfailed", record_blocked)
        opened.page.goto(path.as_uri() if isinstance(path, Path) else path)
        return opened

    yield open_in_browser
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def line_study(tmp_path_factory: pytest.TempPathFactory) -> DummyStudy:
    """Create a study of three lines with two system prompts, and harmful and benign prompts."""
    sets = tuple(
        prompt_set(probes, group, system, 8)
        for probes, group in (("harmful", "harmful"), ("benign", "benign"))
        for system in ("default", "safety")
    )
    return make_study(tmp_path_factory.mktemp("line"), Grid(steps=10), sets)


@pytest.fixture(scope="session")
def plane_study(tmp_path_factory: pytest.TempPathFactory) -> DummyStudy:
    """Create a study of two planes of 9 x 9 points; the first has a hole."""
    grid = Grid(GridKind.random_2d, steps=8, directions=2)
    missing = {grid.point_at(0, a, b).id for a in (0.25, 0.375) for b in (0.25, 0.375)}
    sets = (prompt_set("harmful", "harmful", "default", 6),)
    return make_study(tmp_path_factory.mktemp("plane"), grid, sets, without=lambda point: point.id in missing)
