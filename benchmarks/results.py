"""Write RESULTS.md section by section: each benchmark replaces its own section and leaves the others."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def section(name: str, markdown: str, path: Path = RESULTS) -> None:
    """Write a section between `<!-- name -->` and `<!-- /name -->`. A new section is appended."""
    text = path.read_text(encoding="utf-8") if path.exists() else "# What was measured\n"
    block = f"<!-- {name} -->\n{markdown.strip()}\n<!-- /{name} -->"
    marked = re.compile(rf"<!-- {re.escape(name)} -->\n.*?<!-- /{re.escape(name)} -->", re.DOTALL)
    text = marked.sub(lambda _: block, text) if marked.search(text) else f"{text.rstrip()}\n\n{block}\n"
    path.write_text(text, encoding="utf-8")


def machine() -> str:
    """Describe this machine in one line, for the sections that are measured on it."""
    model = platform.processor() or platform.machine()
    try:
        named = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        model = named.group(1) if named else model
    except OSError:
        pass
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{model}, {cores} cores, load {load:.1f} at the start, Python {platform.python_version()}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
