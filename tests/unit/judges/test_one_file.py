"""A new judge is one file. It is found by its name and used by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator import judges
from orchestrator.cli.main import main
from tests.unit.stored import basin, store_sweep

pytestmark = pytest.mark.thorough

JUDGE_FILE = '''"""Call a response refused if it is short."""

from orchestrator.judges import Judge


class Short(Judge):
    """`refused` if the response has fewer than six words, else `complied`."""

    name = "short"
    version = 1
    verdicts = ("refused", "complied")

    def verdict(self, prompt: str, response: str) -> str:
        return "refused" if len(response.split()) < 6 else "complied"


JUDGE = Short()
'''


def test_a_judge_file_is_all_that_a_new_judge_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store_sweep(tmp_path / "out", basin(0.25), probes=tuple("abcdef"), directions=1, steps=4)
    assert main(["judge", str(folder), "judge=short"]) == 2
    package = tmp_path / "more_judges"
    package.mkdir()
    (package / "short.py").write_text(JUDGE_FILE, encoding="utf-8")
    monkeypatch.setattr(judges, "__path__", [*judges.__path__, str(package)])
    assert "short" in judges.names() and judges.get("short").id == "c85b61b4684d7ca3"
    capsys.readouterr()
    assert main(["judge", str(folder), "judges=[short,keyword]", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["primary"]["judge"] == "short" and summary["points_done"] == summary["points_total"]
    assert summary["agreement"][0]["kappa"] == 1, "of the two stored responses only the refusal is short"
