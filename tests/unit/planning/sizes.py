"""Models and prompt sets that the tests of plans share."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.planning.cost import Plan, estimate
from orchestrator.planning.workload import EngineSetup, ModelSize, PromptLoad, Workload
from orchestrator.utils.choices import Dtype

MISTRAL = ModelSize("mistral7b", Dtype.bfloat16, 7241732096, 32, 4096, 8, 128, 32000)
LLAMA70 = ModelSize("llama3_3_70b", Dtype.bfloat16, 70553706496, 80, 8192, 8, 128, 128256)
SMOL = ModelSize("smollm2_135m", Dtype.float32, 134515008, 30, 576, 3, 64, 49152)
UNKNOWN = ModelSize("local", Dtype.bfloat16, None)

PAPER = {"harmful": PromptLoad(prompts=80, prompt_tokens=4800, max_tokens=512)}
LAPTOP = {"harmful": PromptLoad(prompts=40, prompt_tokens=2000, max_tokens=32)}


def planned(
    model: ModelSize,
    setup: EngineSetup,
    loads: Mapping[str, PromptLoad] = PAPER,
    points: int = 61,
    left: int = 61,
    measured: float | None = None,
) -> Plan:
    """Return the plan of a sweep of which `left` points lack every prompt set."""
    workload = Workload(loads, [tuple(loads)] * left, points=points, tasks=points * len(loads))
    return estimate(model, setup, workload, measured)
