"""The file docs/figures/numbers.json: the text of each quoted number, with the definition that it was made by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from scripts.figures.markdown import ROOT

NUMBERS = ROOT / "docs" / "figures" / "numbers.json"


def read_numbers(path: Path = NUMBERS) -> dict[str, tuple[str, str]]:
    """Return (definition, text) by name. Empty if there is no file."""
    if not path.exists():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    return {name: (entry["definition"], entry["text"]) for name, entry in document.items()}


def write_numbers(numbers: Mapping[str, tuple[str, str]]) -> bytes:
    """Return the bytes of the file, in the order of `numbers`."""
    document = {name: {"definition": definition, "text": text} for name, (definition, text) in numbers.items()}
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
