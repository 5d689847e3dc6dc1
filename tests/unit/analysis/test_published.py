"""The paper's values are shown only for a sweep with the paper's settings."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.analysis import published
from orchestrator.analysis.results import ResultKey
from orchestrator.config.compose import compose
from orchestrator.prompts.rendering import template_source
from orchestrator.sweep.grid import Grid

GRID: dict[str, Any] = {
    "kind": "random_1d",
    "norm": "layer",
    "exclude": ["norm"],
    "range": [-0.5, 0.5],
    "range_y": None,
}
RESULT = ResultKey(probe_set="advbench", group="harmful", system_prompt="default", judge="keyword")


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
    assert published.visage(model, GRID, key) == line
    assert published.visage(model, GRID | {"kind": "random_2d"}, key) == plane


def test_a_grid_is_recognized_before_and_after_it_is_stored() -> None:
    grid = Grid(range=(-0.5, 0.5)).to_json()
    assert published.visage("llama2_7b", grid, RESULT) == 85.32
    assert published.visage("llama2_7b", json.loads(json.dumps(grid)), RESULT) == 85.32


@pytest.mark.parametrize(
    ("grid", "result"),
    [
        ({"range": [-0.2, 0.2]}, {}),
        ({"kind": "random_2d", "range_y": [-0.2, 0.2]}, {}),
        ({"norm": "filter"}, {}),
        ({"exclude": []}, {}),
        ({"kind": "interpolate_1d"}, {}),
        ({}, {"probe_set": "harmful"}),
        ({}, {"judge": "keyword_plus"}),
        ({}, {"group": "benign"}),
        ({}, {"system_prompt": "custom"}),
    ],
)
def test_a_sweep_with_other_settings_has_no_published_value(grid: dict[str, Any], result: dict[str, Any]) -> None:
    assert published.visage("llama2_7b", GRID, RESULT) is not None
    assert published.visage("llama2_7b", GRID | grid, replace(RESULT, **result)) is None


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
    assert published.finetuned("llama2_7b", recipe, RESULT) == asr
    assert published.finetuned("llama2_7b", recipe, replace(RESULT, probe_set="harmful")) is None
    assert published.finetuned("smollm2_135m", recipe, RESULT) is None


@pytest.mark.parametrize("model", published.PRESETS)
def test_the_papers_models_use_the_papers_templates(model: str) -> None:
    template = compose([f"model={model}"]).model.template
    assert template == {"llama3_8b": "tokenizer"}.get(model, model.split("_")[0].removesuffix("7b"))
    assert template == "tokenizer" or template_source(template)
