"""Packages with entry points, installed in a folder as pip leaves them."""

from __future__ import annotations

from pathlib import Path

from orchestrator.utils import plugins


def declare(folder: Path, package: str, group: str, entry_point: str) -> None:
    """Install the metadata of a package with one entry point, such as "question = my_judges", in a folder."""
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry_point}\n", encoding="utf-8")


def forget_packages() -> None:
    """Forget which packages are installed and what they define, as a new process would."""
    plugins.installed.cache_clear()
    plugins.load_installed.cache_clear()
