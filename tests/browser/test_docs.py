"""The documentation's search works in Chromium on pages opened from a folder, without a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.pages import OpenedPage
from tests.contract.test_docs import build

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_search_finds_a_page_without_a_server(tmp_path: Path, open_page: Callable[..., OpenedPage]) -> None:
    build(tmp_path)
    page = open_page(tmp_path / "howto" / "model.html").page
    page.fill("input[name=query]", "unconditional margin")
    page.wait_for_selector(".md-search-result__link")
    first = page.get_attribute(".md-search-result__link", "href")
    assert first == (tmp_path / "visage.html").as_uri()
    page.click(".md-search-result__link")
    page.wait_for_url("**/visage.html*")
