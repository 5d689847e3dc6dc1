"""The paper's results, shown next to measured ones as reference values.

Peng, Chen, Hull, Chau: "Navigating the Safety Landscape", arXiv 2405.17374, NeurIPS 2024. alpha in [-0.5, 0.5], 21
points per axis, 3 directions, the first 80 prompts of AdvBench, greedy, 512 new tokens, float32, the 29 keywords.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.analysis.results import ResultKey

SOURCE = "Peng et al. 2024, arXiv 2405.17374: 80 prompts of AdvBench, 512 tokens, float32"

# Table 2: VISAGE along lines, by system prompt. LLaMA2's default is our `llama2`, Mistral's default our `safety`.
# The paper's `safety` was optimized for each Mistral; for v0.2 it is our `safety_mistral`.
LINES: Mapping[str, Mapping[str, float]] = {
    "LLaMA2-7B-chat": {"default": 85.32, "empty": 80.68, "roleplay": 86.56, "llama2": 85.32},
    "LLaMA3-8B-instruct": {"empty": 81.10, "roleplay": 78.40, "llama2": 90.40},
    "Mistral-7B-instruct-v0.1": {
        "default": 74.11, "empty": 20.78, "roleplay": 52.65, "llama2": 85.66, "safety": 86.24
    },
    "Mistral-7B-instruct-v0.2": {
        "default": 82.04, "empty": 64.90, "roleplay": 75.54, "llama2": 73.69, "safety": 75.53
    },
    "Vicuna-7B-v1.3": {"default": 82.03, "empty": 56.13, "roleplay": 77.13, "llama2": 80.18},
    "Vicuna-7B-v1.5": {"default": 77.37, "empty": 73.56, "roleplay": 81.61, "llama2": 81.62},
}  # fmt: skip
# Table 1: VISAGE over planes.
PLANES: Mapping[str, Mapping[str, float]] = {
    "LLaMA3-8B-instruct": {"llama2": 77.83},
    "LLaMA2-7B-chat": {"default": 73.26, "llama2": 73.26},
    "Mistral-7B-instruct-v0.2": {"default": 68.87},
    "Vicuna-7B-v1.5": {"default": 64.45},
}
# Table 1: ASR in percent, of the aligned model and after finetuning on this many harmful samples with whole answers.
FINETUNED: Mapping[str, Mapping[str, float]] = {
    "LLaMA2-7B-chat": {"aligned": 0.0, "10": 90.0, "50": 91.3, "100": 100.0, "100 with 100 safe": 0.0},
    "Vicuna-7B-v1.5": {"aligned": 5.0, "10": 95.0, "50": 97.5, "100": 100.0, "100 with 100 safe": 1.3},
}
PRESETS = {
    "llama2_7b": "LLaMA2-7B-chat",
    "llama3_8b": "LLaMA3-8B-instruct",
    "mistral7b": "Mistral-7B-instruct-v0.2",
    "vicuna7b": "Vicuna-7B-v1.5",
}


def visage(model: str, grid: Mapping[str, Any], result: ResultKey) -> float | None:
    """Return the paper's VISAGE for the same model, grid and system prompt, in percent.

    None if the paper does not report it, or if the grid, the prompts or the judge differ from the paper's.

    Args:
        model: Name of the preset.
        grid: The grid as JSON, as `SweepSummary.grid` holds it.
        result: The prompts and the judge.
    """
    table = {"random_1d": LINES, "random_2d": PLANES}.get(grid["kind"])
    same_directions = (
        grid.get("norm") == "layer" and list(grid.get("exclude", ())) == ["norm"] and "direction" not in grid
    )
    ranges = (grid["range"], grid.get("range_y") or grid["range"])
    same_grid = same_directions and all(list(bounds) == [-0.5, 0.5] for bounds in ranges)
    if table is None or not same_grid or not _is_papers_request(result):
        return None
    name, prompt = PRESETS.get(model, ""), result.system_prompt
    papers_names = {"safety": "default", "safety_mistral": "safety"} if name.startswith("Mistral") else {"safety": ""}
    return table.get(name, {}).get(papers_names.get(prompt, prompt))


def finetuned(model: str, recipe: str, result: ResultKey) -> float | None:
    """Return the paper's ASR of the same model after finetuning on the same number of samples, in percent.

    The paper finetunes on whole answers to harmful requests, the recipe only on the openings of answers. None if the
    paper does not report it.

    Args:
        model: Name of the preset.
        recipe: A recipe with its overrides, such as `affirmative samples=50 safe=50`.
        result: The prompts and the judge.
    """
    name, *overrides = recipe.split()
    given = {key: value for key, _, value in (override.partition("=") for override in overrides)}
    settings = {"samples": "100", "safe": "0"} | given
    if name != "affirmative" or len(settings) > 2 or not _is_papers_request(result):
        return None
    samples, safe = settings["samples"], settings["safe"]
    column = samples if safe == "0" else f"{samples} with {safe} safe"
    return FINETUNED.get(PRESETS.get(model, ""), {}).get(column)


def _is_papers_request(result: ResultKey) -> bool:
    return (result.group, result.probe_set, result.judge) == ("harmful", "advbench", "keyword")
