"""Draw the package layers of tests/contract/rules.py into docs/architecture.md: `python -m scripts.draw_layers`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.contract.rules import LAYERS, ROOT

PAGE: Path = ROOT / "docs" / "architecture.md"
START = "<!-- layers: start, written by scripts/draw_layers.py -->"
END = "<!-- layers: end -->"
WIDTH = 59
"""Characters per row. Rows of one, two or three boxes fill it exactly."""


def drawing(layers: Sequence[Sequence[str]] = LAYERS) -> str:
    """Return the layers as a text drawing, one row of boxes per layer, the top layer first."""
    rows = [_row(layer) for layer in layers]
    return f"\n{' ' * (WIDTH // 2)}▼\n".join(rows)


def _row(packages: Sequence[str]) -> str:
    """Return one layer as boxes of equal width, side by side."""
    gap = 1
    inner = (WIDTH - gap * (len(packages) - 1)) // len(packages) - 2
    top = " ".join(f"┌{'─' * inner}┐" for _ in packages)
    middle = " ".join(f"│{package:^{inner}}│" for package in packages)
    bottom = " ".join(f"└{'─' * inner}┘" for _ in packages)
    return "\n".join((top, middle, bottom))


def updated(page: str) -> str:
    """Return the page's text with a new drawing between the two markers."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{PAGE} lacks the markers {START} and {END}")
    return f"{before}{START}\n```text\n{drawing()}\n```\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
