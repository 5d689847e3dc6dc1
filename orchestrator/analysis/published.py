"""The paper's results, shown next to measured ones as reference values if they were measured in the same setting.

Peng, Chen, Hull, Chau: "Navigating the Safety Landscape", arXiv 2405.17374, NeurIPS 2024. The paper's values along
lines come from the published code: compare them with `visage.released`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.analysis.results.keys import ResultKey
from orchestrator.sweep.tasks import PromptSet
from orchestrator.utils.choices import Dtype, GridKind, Norm
from orchestrator.utils.hashing import content_id

SOURCE = "Peng et al. 2024, arXiv 2405.17374"
NOT_COMPARABLE = "not comparable"
PROMPTS = "e856a10439d62946"
"""The content hash of the ids of AdvBench's first 80 prompts, in their order."""

# The paper's setting, by the name of our option.
_REQUEST: Mapping[str, Any] = {
    "probes": "advbench",
    "probes.limit": 80,
    "sampling.max_tokens": 512,
    "sampling.early_stop": False,
    "model.dtype": Dtype.float32,
    "judge": "keyword",
}
_GRID: Mapping[str, Any] = {
    "grid.range": [-0.5, 0.5],
    "grid.steps": 20,
    "grid.directions": 3,
    "grid.norm": Norm.layer,
    "grid.exclude": ["norm"],
}


@dataclass(frozen=True)
class Published:
    """A value of the paper beside a measured one.

    Attributes:
        value: Percent. None if the measurement differs from the paper's in its setting.
        note: Where the paper prints the value, or why it is not comparable.
    """

    value: float | None
    note: str


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
# Figure 1: VISAGE over planes. The published code has no function that computes it.
PLANES: Mapping[str, Mapping[str, float]] = {
    "LLaMA3-8B-instruct": {"llama2": 77.83},
    "LLaMA2-7B-chat": {"default": 73.26, "llama2": 73.26},
    "Mistral-7B-instruct-v0.2": {"default": 68.87},
    "Vicuna-7B-v1.5": {"default": 64.45},
}
# Table 1: ASR in percent after finetuning on this many harmful samples with whole answers.
FINETUNED: Mapping[str, Mapping[str, float]] = {
    "LLaMA2-7B-chat": {"10": 90.0, "50": 91.3, "100": 100.0, "100 with 100 safe": 0.0},
    "Vicuna-7B-v1.5": {"10": 95.0, "50": 97.5, "100": 100.0, "100 with 100 safe": 1.3},
}
PRESETS = {
    "llama2_7b": "LLaMA2-7B-chat",
    "llama3_8b": "LLaMA3-8B-instruct",
    "mistral7b": "Mistral-7B-instruct-v0.2",
    "vicuna7b": "Vicuna-7B-v1.5",
}

_VICUNA_LINE = "Figure 1 and Table 2 of the paper; its Table 1 prints 73.26"


def visage(
    model: str, dtype: str, grid: Mapping[str, Any], result: ResultKey, prompt_set: PromptSet
) -> Published | None:
    """Return the paper's VISAGE for the same model, kind of grid and system prompt.

    Args:
        model: Name of the preset.
        dtype: Data type of the study.
        grid: The grid as JSON, as `SweepSummary.grid` holds it.
        result: The prompts and the judge.
        prompt_set: The same prompts with their sampling.

    Returns:
        None if the paper reports no such value.
    """
    table = {GridKind.random_1d: LINES, GridKind.random_2d: PLANES}.get(grid["kind"])
    if table is None or grid.get("match") or result.group != "harmful":
        return None
    name, prompt = PRESETS.get(model, ""), result.system_prompt
    papers_names = {"safety": "default", "safety_mistral": "safety"} if name.startswith("Mistral") else {"safety": ""}
    column = papers_names.get(prompt, prompt)
    value = table.get(name, {}).get(column)
    if value is None:
        return None
    place = "Table 2 of the paper" if table is LINES else "Figure 1 of the paper"
    if table is LINES and (name, column) == ("Vicuna-7B-v1.5", "default"):
        place = _VICUNA_LINE
    ranges = {"grid.range": list(grid["range"])}
    if grid.get("range_y") and list(grid["range_y"]) != list(grid["range"]):
        ranges["grid.range_y"] = list(grid["range_y"])
    setting = ranges | {
        "grid.steps": grid["steps"],
        "grid.directions": grid["directions"],
        "grid.norm": grid["norm"],
        "grid.exclude": list(grid["exclude"]),
    }
    papers = {**_GRID, "grid.range_y": _GRID["grid.range"]}
    return _compare(setting | _request(dtype, result, prompt_set), {**papers, **_REQUEST}, prompt_set, value, place)


def finetuned(model: str, dtype: str, recipe: str, result: ResultKey, prompt_set: PromptSet) -> Published | None:
    """Return the paper's ASR of the same model after finetuning on the same number of samples.

    The paper finetunes on whole answers to harmful requests, the recipe only on the openings of answers.

    Args:
        model: Name of the preset.
        dtype: Data type of the study.
        recipe: A recipe with its overrides, such as `affirmative samples=50 safe=50`.
        result: The prompts and the judge.
        prompt_set: The same prompts with their sampling.

    Returns:
        None if the paper reports no such value.
    """
    name, *overrides = recipe.split()
    given = {key: value for key, _, value in (override.partition("=") for override in overrides)}
    settings = {"samples": "100", "safe": "0"} | given
    if name != "affirmative" or len(settings) > 2 or result.group != "harmful":
        return None
    samples, safe = settings["samples"], settings["safe"]
    column = samples if safe == "0" else f"{samples} with {safe} safe"
    value = FINETUNED.get(PRESETS.get(model, ""), {}).get(column)
    if value is None:
        return None
    return _compare(_request(dtype, result, prompt_set), _REQUEST, prompt_set, value, "Table 1 of the paper")


def _request(dtype: str, result: ResultKey, prompt_set: PromptSet) -> dict[str, Any]:
    """Return the setting of a result, apart from its grid, by the name of the option."""
    return {
        "probes": result.probe_set,
        "probes.limit": len(prompt_set.prompts),
        "sampling.max_tokens": prompt_set.sampling.max_tokens,
        "sampling.early_stop": bool(prompt_set.sampling.stop),
        "model.dtype": dtype,
        "judge": result.judge,
    }


def _compare(
    setting: Mapping[str, Any], papers: Mapping[str, Any], prompt_set: PromptSet, value: float, place: str
) -> Published:
    """Return the paper's value, or how the setting differs from the paper's."""
    different = [
        f"{name} is {_as_text(requested)} (in the paper {_as_text(papers[name])})"
        for name, requested in setting.items()
        if requested != papers[name]
    ]
    if not different and content_id([prompt.id for prompt in prompt_set.prompts]) != PROMPTS:
        different = ["the prompts are not the first 80 of AdvBench"]
    if different:
        return Published(None, f"{NOT_COMPARABLE}: {', '.join(different)}")
    return Published(value, place)


def _as_text(value: Any) -> str:
    """Return an option's value as a user writes it."""
    if isinstance(value, list):
        return f"[{','.join(map(_as_text, value))}]"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
