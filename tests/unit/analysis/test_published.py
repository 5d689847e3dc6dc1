"""The paper's values are shown only beside a measurement in the paper's setting; else the difference is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.analysis import published
from orchestrator.analysis.published import Published
from orchestrator.analysis.reducer import read_results
from orchestrator.analysis.results.keys import ResultKey
from orchestrator.analysis.results.sweep import SweepSummary
from orchestrator.config.compose import compose
from orchestrator.prompts.rendering import template_source
from orchestrator.report.narrative import paragraph
from orchestrator.report.page.tables import results_table, uncertainty_table
from orchestrator.store.discovery import latest_sweep
from orchestrator.sweep.grid import Grid
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.utils.hashing import content_id
from tests.unit.stored import basin, store_sweep

GRID = Grid(range=(-0.5, 0.5)).to_json()
PLANE = Grid.from_json(GRID | {"kind": "random_2d"}).to_json()
RESULT = ResultKey(probe_set="advbench", group="harmful", system_prompt="default", judge="keyword")
PROMPTS = tuple(Prompt(f"question {i}") for i in range(80))


@pytest.fixture(autouse=True)
def advbench(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use 80 harmless questions in place of AdvBench's, whose texts are not part of the repository."""
    monkeypatch.setattr(published, "PROMPTS", content_id([prompt.id for prompt in PROMPTS]))


def prompt_set(prompts: tuple[Prompt, ...] = PROMPTS, **sampling: Any) -> PromptSet:
    """Return prompts with the paper's sampling, or another one."""
    texts, ids = tuple(prompt.text for prompt in prompts), tuple((i,) for i in range(len(prompts)))
    return PromptSet("harmful", prompts, texts, ids, Sampling(**{"max_tokens": 512, **sampling}), "advbench")


def visage(model: str, grid: Mapping[str, Any] = GRID, result: ResultKey = RESULT, **other: Any) -> Published | None:
    """Return the paper's VISAGE for a measurement in the paper's setting, except for the arguments."""
    return published.visage(model, other.get("dtype", "float32"), grid, result, other.get("prompts", prompt_set()))


@pytest.mark.parametrize(
    ("model", "prompt", "line", "plane"),
    [
        ("llama2_7b", "default", 85.32, 73.26),
        ("llama2_7b", "llama2", 85.32, 73.26),
        ("llama2_7b", "empty", 80.68, None),
        ("llama2_7b", "safety", None, None),
        ("llama3_8b", "llama2", 90.40, 77.83),
        ("llama3_8b", "default", None, None),
        ("mistral7b", "default", 82.04, 68.87),
        ("mistral7b", "safety", 82.04, 68.87),
        ("mistral7b", "safety_mistral", 75.53, None),
        ("vicuna7b", "safety_mistral", None, None),
        ("mistral7b", "empty", 64.90, None),
        ("mistral7b", "roleplay", 75.54, None),
        ("vicuna7b", "default", 77.37, 64.45),
        ("qwen3_8b", "default", None, None),
    ],
)
def test_published_values_depend_on_model_and_system_prompt(
    model: str, prompt: str, line: float | None, plane: float | None
) -> None:
    key = replace(RESULT, system_prompt=prompt)
    for grid, expected, place in ((GRID, line, "Table 2"), (PLANE, plane, "Figure 1")):
        papers = visage(model, grid, key)
        assert (papers and papers.value) == expected
        assert papers is None or place in papers.note


def test_both_of_the_papers_values_for_vicuna_are_told_with_their_places() -> None:
    papers = visage("vicuna7b")
    assert papers == Published(77.37, "Figure 1 and Table 2 of the paper; its Table 1 prints 73.26")


def test_a_grid_is_recognized_before_and_after_it_is_stored() -> None:
    for grid in (GRID, json.loads(json.dumps(GRID))):
        assert visage("llama2_7b", grid) == Published(85.32, "Table 2 of the paper")


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"grid": {"range": [-0.2, 0.2]}}, "grid.range is [-0.2,0.2] (in the paper [-0.5,0.5])"),
        ({"grid": {"kind": "random_2d", "range_y": [-0.2, 0.2]}}, "grid.range_y is [-0.2,0.2] (in the paper"),
        ({"grid": {"steps": 2}}, "grid.steps is 2 (in the paper 20)"),
        ({"grid": {"directions": 1}}, "grid.directions is 1 (in the paper 3)"),
        ({"grid": {"norm": "filter"}}, "grid.norm is filter (in the paper layer)"),
        ({"grid": {"exclude": []}}, "grid.exclude is [] (in the paper [norm])"),
        ({"result": {"probe_set": "harmful"}}, "probes is harmful (in the paper advbench)"),
        ({"result": {"judge": "keyword_plus"}}, "judge is keyword_plus (in the paper keyword)"),
        ({"dtype": "bfloat16"}, "model.dtype is bfloat16 (in the paper float32)"),
        ({"prompts": prompt_set(PROMPTS[:3])}, "probes.limit is 3 (in the paper 80)"),
        ({"prompts": prompt_set(max_tokens=32)}, "sampling.max_tokens is 32 (in the paper 512)"),
        ({"prompts": prompt_set(stop=("I cannot",))}, "sampling.early_stop is true (in the paper false)"),
        ({"prompts": prompt_set(PROMPTS[::-1])}, "the prompts are not the first 80 of AdvBench"),
    ],
)
def test_a_sweep_in_another_setting_is_told_what_differs(other: dict[str, Any], difference: str) -> None:
    grid, result = GRID | other.pop("grid", {}), replace(RESULT, **other.pop("result", {}))
    papers = visage("llama2_7b", grid, result, **other)
    assert papers is not None and papers.value is None
    assert papers.note.startswith("not comparable: ") and difference in papers.note
    assert papers.note.count("in the paper") == difference.count("in the paper"), "what is equal is not named"


@pytest.mark.parametrize(
    ("grid", "result"),
    [
        ({"kind": "interpolate_1d"}, {}),
        ({"match": {"fingerprint": "f"}}, {}),
        ({}, {"group": "benign"}),
        ({}, {"system_prompt": "custom"}),
    ],
)
def test_where_the_paper_has_no_value_nothing_is_said(grid: dict[str, Any], result: dict[str, Any]) -> None:
    assert visage("llama2_7b", GRID | grid, replace(RESULT, **result)) is None


@pytest.mark.parametrize(
    ("recipe", "asr"),
    [
        ("affirmative", 100.0),
        ("affirmative samples=10", 90.0),
        ("affirmative samples=50", 91.3),
        ("affirmative samples=100 safe=100", 0.0),
        ("affirmative samples=50 safe=50", None),
        ("affirmative samples=50 train.epochs=9", None),
        ("identity samples=10", None),
        ("epoch-1", None),
        ("some folder", None),
    ],
)
def test_published_values_of_finetuned_models(recipe: str, asr: float | None) -> None:
    papers = published.finetuned("llama2_7b", "float32", recipe, RESULT, prompt_set())
    assert papers == (None if asr is None else Published(asr, "Table 1 of the paper"))
    short = published.finetuned("llama2_7b", "float32", recipe, RESULT, prompt_set(max_tokens=32))
    assert (short is None) == (asr is None)
    assert short is None or (short.value is None and "sampling.max_tokens is 32" in short.note)
    assert published.finetuned("smollm2_135m", "float32", recipe, RESULT, prompt_set()) is None


@pytest.mark.parametrize("model", published.PRESETS)
def test_the_papers_models_use_the_papers_templates(model: str) -> None:
    template = compose([f"model={model}"]).model.template
    assert template == {"llama3_8b": "tokenizer"}.get(model, model.split("_")[0].removesuffix("7b"))
    assert template == "tokenizer" or template_source(template)


def reduced(tmp_path: Path, model: str = "llama2_7b", **sweep: Any) -> SweepSummary:
    """Store and reduce a sweep; return its summary."""
    return read_results(latest_sweep(store_sweep(tmp_path, basin(0.2), model, **sweep)))[1]


def test_3_points_with_3_prompts_do_not_show_the_papers_visage(tmp_path: Path) -> None:
    summary = reduced(tmp_path, probe_set="advbench", probes=[p.text for p in PROMPTS[:3]], steps=2)
    assert summary.visage.paper is not None and summary.published is None
    for name in ("grid.steps is 2", "probes.limit is 3", "sampling.max_tokens is 8"):
        assert name in summary.published_note
    text = paragraph(summary)
    assert "85.3" not in text and f"The paper's VISAGE of this model is {summary.published_note}." in text
    cells = [
        cell for table in (results_table(summary), uncertainty_table(summary)) for row in table.rows for cell in row
    ]
    assert not any("85.3" in cell for cell in cells) and any("not comparable: " in cell for cell in cells)
    earlier = SweepSummary.from_json({**summary.to_json(), "published": 85.32, "published_note": None})
    assert "85.3" not in paragraph(earlier), "earlier versions did not check the setting"


@pytest.mark.thorough
def test_in_the_papers_setting_its_value_is_compared_with_the_published_codes(tmp_path: Path) -> None:
    sampling = Sampling(512)
    summary = reduced(tmp_path, probe_set="advbench", attacks=PROMPTS, steps=20, sampling=sampling)
    assert summary.published == summary.results[0].published == 85.32
    text = paragraph(summary)
    assert f"The paper reports 85.32 (Table 2 of the paper); compare it with {summary.visage.released:.2f}, as" in text
    (row,) = (row for row in uncertainty_table(summary).rows if row[0] == "VISAGE in the paper")
    assert row[1] == "85.32" and "Table 2 of the paper" in row[-1]
