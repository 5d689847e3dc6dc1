"""Export a sweep for other tools, by the verb `export`."""

from __future__ import annotations

import base64
import csv
import json
import stat
import struct
from pathlib import Path
from xml.etree import ElementTree

import pytest

from orchestrator import load_study
from orchestrator.cli.main import main
from orchestrator.report.exports.latex import escaped, table
from tests.unit.stored import basin, store_sweep

pytestmark = pytest.mark.thorough


def export(name: str, sweep: Path, to: Path) -> Path:
    """Export a sweep to a path below `to`, and return the path."""
    target = to / "exported"
    assert main(["export", name, str(sweep), f"to={target}"]) == 0
    return target


def test_every_response_is_a_line_with_its_class(tmp_path: Path) -> None:
    sweep = store_sweep(tmp_path / "out", basin(0.3), directions=2)
    lines = [json.loads(line) for line in export("jsonl", sweep, tmp_path).read_text(encoding="utf-8").splitlines()]
    stored = load_study(sweep).generations
    found = {(line["point_id"], line["prompt_id"]): (line["response"], line["classes"]["keyword"]) for line in lines}
    rows = stored[["point_id", "prompt_id", "response", "keyword"]].itertuples(index=False)
    assert found == {(point, prompt): (response, verdict) for point, prompt, response, verdict in rows}
    assert len(lines) == len(stored) == 21 * 20
    assert {line["alpha"] for line in lines if line["line"] == 1} == {round(0.1 * k, 1) for k in range(-5, 6) if k}


def test_harmbench_finds_the_completions_of_each_behavior(tmp_path: Path) -> None:
    sweep = store_sweep(tmp_path / "out", basin(0.3), directions=1)
    folder = export("harmbench", sweep, tmp_path)
    with (folder / "behaviors.csv").open(encoding="utf-8", newline="") as file:
        behaviors = {row["BehaviorID"]: row["Behavior"] for row in csv.DictReader(file)}
    assert sorted(behaviors.values()) == sorted(f"question {i}" for i in range(20))
    assert len(list(folder.glob("*.json"))) == 11
    far = json.loads((folder / "line0_alpha-0.5.json").read_text(encoding="utf-8"))
    assert far.keys() == behaviors.keys()
    for behavior, completions in far.items():
        assert completions == [
            {"test_case": behaviors[behavior], "generation": "Here is a list of the steps you asked for."}
        ]


def test_logs_of_inspect_hold_what_the_landscape_counts(tmp_path: Path) -> None:
    sweep = store_sweep(
        tmp_path / "out", basin(0.3), directions=1, nonfinite=lambda node, i: node.alpha == 0.5 and i < 3
    )
    landscape = load_study(sweep).landscape.set_index("alpha")
    for path in export("inspect", sweep, tmp_path).glob("*.json"):
        log = json.loads(path.read_text(encoding="utf-8"))
        row = landscape.loc[log["eval"]["metadata"]["alpha"]]
        score = log["results"]["scores"][0]
        assert score["metrics"]["attack_success_rate"]["value"] * 100 == pytest.approx(row["asr"])
        assert (score["scored_samples"], score["unscored_samples"]) == (row["n"], row["n_nonfinite"])
        assert len(log["samples"]) == 20


def test_a_table_for_latex_shows_the_summary(tmp_path: Path) -> None:
    sweep = store_sweep(tmp_path / "out", basin(0.3), model="50%_{of}")
    text = export("latex", sweep, tmp_path).read_text(encoding="utf-8")
    summary = load_study(sweep).summary
    cells = next(line for line in text.splitlines() if "keyword" in line).removesuffix(r" \\").split(" & ")
    assert cells[3].strip().startswith(f"{summary['origin_asr']:.1f} [")
    assert cells[4].startswith(f"{summary['visage']['paper']:.1f}")
    assert cells[5].startswith(f"{summary['margin']['value']:.1f}")
    assert r"50\%\_\{of\}" in text


def test_special_characters_are_printed_by_latex_as_they_are() -> None:
    assert escaped("a&b_c%\n\\ #1 ~^{x}<|>$") == (
        r"a\&b\_c\% \textbackslash{} \#1 \textasciitilde{}\textasciicircum{}\{x\}"
        r"\textless{}\textbar{}\textgreater{}\$"
    )
    lines = table(("a", "b & c"), [("x", "1"), ("y", "2")], "50%").splitlines()
    assert r"    a & b \& c \\" in lines and r"  \caption{50\%}" in lines and r"    y & 2 \\" in lines


def decoded(array: ElementTree.Element) -> list[float]:
    """Return the numbers of an array of VTK: base64 of their number of bytes, then of the numbers themselves."""
    data = base64.b64decode(array.text or "")
    (size,) = struct.unpack_from("<I", data)
    assert len(data) == 4 + size
    return list(struct.unpack_from(f"<{size // 8}{'d' if array.get('type') == 'Float64' else 'q'}", data, 4))


def test_a_plane_is_a_surface_of_quadrilaterals(tmp_path: Path) -> None:
    sweep = store_sweep(tmp_path / "out", basin(0.3), kind="random_2d", steps=4, leave_out=lambda n: n.alpha == 0.5)
    root = ElementTree.parse(export("vtp", sweep, tmp_path) / "plane-0.vtp").getroot()
    arrays = {array.get("Name"): decoded(array) for array in root.iter("DataArray")}
    points = [tuple(arrays["points"][i : i + 3]) for i in range(0, 75, 3)]
    landscape = load_study(sweep).landscape
    expected = landscape[landscape["line"] == 0].set_index(["alpha", "beta"])["asr"]
    for (alpha, beta, z), asr in zip(points, arrays["asr"], strict=True):
        assert z == 0.0 and float(expected[alpha, beta]) == pytest.approx(asr, nan_ok=True)
    quads = [[points[int(i)] for i in arrays["connectivity"][k : k + 4]] for k in range(0, 64, 4)]
    for quad in quads:  # each a cell of the grid, with its corners in a circle
        steps = [abs(b[0] - a[0]) + abs(b[1] - a[1]) for a, b in zip(quad, [*quad[1:], quad[0]], strict=True)]
        assert steps == pytest.approx([0.25] * 4)
    assert arrays["offsets"] == [4 * k for k in range(1, 17)]


def test_exported_files_are_as_private_as_the_study(tmp_path: Path) -> None:
    sweep = store_sweep(tmp_path / "out", basin(0.3), directions=1)
    for path in (folder := export("harmbench", sweep, tmp_path), *folder.iterdir()):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_only_an_earlier_export_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = store_sweep(tmp_path / "out", basin(0.3), directions=1)
    folder = export("vtp", sweep, tmp_path)
    (folder / "old").touch()
    assert not (export("vtp", sweep, tmp_path) / "old").exists()
    precious = tmp_path / "papers" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("years of work", encoding="utf-8")
    for name in ("inspect", "jsonl"):
        assert main(["export", name, str(sweep), f"to={precious.parent}"]) == 2
        assert "export.to" in capsys.readouterr().err
    assert main(["export", "vtp", str(sweep), f"to={precious}"]) == 2
    assert precious.read_text(encoding="utf-8") == "years of work"


@pytest.mark.parametrize(("arguments", "said"), [(["vtx"], "did you mean 'vtp'"), ([], "name a format")])
def test_a_wrong_format_is_named(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_comparison_is_written_for_latex(tmp_path: Path) -> None:
    first = store_sweep(tmp_path / "out", basin(0.15), "first")
    second = store_sweep(tmp_path / "out", basin(0.35), "second")
    assert main(["compare", str(first), str(second), f"latex={tmp_path / 'a.tex'}"]) == 0
    text = (tmp_path / "a.tex").read_text(encoding="utf-8")
    assert text.count(r"\begin{table}") == 2 and "& VISAGE & " in text
