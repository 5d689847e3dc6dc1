"""Plans of configurations whose weights are not on this machine."""

from __future__ import annotations

import json

import pytest

from orchestrator.cli.plan_table import plan_rows
from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.models import targets
from orchestrator.pipeline import estimate
from orchestrator.planning.cost import Plan
from orchestrator.utils.choices import BaseChoice


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "locate_model", lambda _: None)
    monkeypatch.setattr(targets, "locate_model", lambda _: None)


def planned(*overrides: str) -> Plan:
    defaults = ("model=llama2_7b", "probes=harmful", "probes.limit=40", "sampling.early_stop=false", "cluster.gpu=h100")
    return estimate.estimate_sweep(compose([*defaults, *overrides]), Presets())


def test_the_plan_uses_the_requested_place_of_the_base() -> None:
    plan = planned("cluster.gpu=rtx4090", "engine.base=gpu")
    assert plan.memory and plan.memory.base_at is None
    assert any(note.startswith("engine.base=gpu: ") for note in plan.notes)
    plan = planned("engine.base=gpu", "engine.device=cpu")
    assert any("there is no GPU" in note for note in plan.notes)
    shared = planned("cluster.gpus_per_actor=0.25", "engine.kv_cache_gib=1")
    assert shared.memory and shared.memory.base_at != "gpu", "a quarter of an H100"


def test_model_judges_are_part_of_the_plan() -> None:
    plan = planned("judges=[keyword,wildguard,harmbench_llama2]", "sampling.max_tokens=100")
    wildguard, harmbench = plan.judging  # the keyword judge costs nothing
    assert wildguard.responses == harmbench.responses == plan.responses == 40 * plan.points
    for judge, parameters in ((wildguard, 7_241_732_096), (harmbench, 13_015_864_320)):
        assert judge.memory is not None and judge.memory.fits and judge.memory.weights == 2 * parameters
        # It reads its template, the prompt and the whole response, at the speed of its arithmetic or slower.
        assert judge.responses * (100 + estimate.TEMPLATE_PROMPT_TOKENS) < judge.tokens < judge.responses * 1000
        assert judge.gpu_hours is not None and judge.gpu_hours * 3600 > 2 * parameters * judge.tokens / 989e12
    rows = dict(plan_rows(plan))
    assert "at most 2,440 responses" in rows["judge wildguard"] and "GPU-hours" in rows["judge harmbench_llama2"]
    written = json.loads(json.dumps(plan.to_json()))
    assert written["judging"][0]["judge"] == "wildguard"
    assert Plan.from_json(written) == plan
    assert planned().judging == ()


def test_a_judge_is_planned_for_the_groups_that_it_applies_to() -> None:
    wildguard, llama_guard = planned(
        "probe_sets=[harmful,benign,capability_choice]",
        "probes.limit=10",
        "judges=[keyword,wildguard,llama_guard3]",
    ).judging
    assert (
        wildguard.responses == 2 * llama_guard.responses > 0
    )  # wildguard judges harm and refusals, llama_guard3 harm only


def test_reading_responses_at_the_origin_is_part_of_the_plan_if_it_is_requested() -> None:
    plan = planned("sampling.max_tokens=100", "judging.log_probability=undecided")
    assert plan.log_probability is not None
    assert plan.log_probability.responses == plan.responses == 40 * plan.points
    assert plan.log_probability.tokens == plan.responses * (100 + estimate.TEMPLATE_PROMPT_TOKENS)
    assert "at most 2,440 responses" in dict(plan_rows(plan))["log-probability"]
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    off = planned()
    assert off.log_probability is None and "log-probability" not in dict(plan_rows(off))
    earlier = {key: value for key, value in off.to_json().items() if key != "log_probability"}
    assert Plan.from_json(earlier) == off
    choices = planned(
        "probe_sets=[harmful,capability_choice]", "probes.limit=10", "judging.log_probability=all"
    ).log_probability
    assert choices is not None and choices.responses == 10 * plan.points, "a letter is no text"


def test_the_plan_of_a_stored_sweep_uses_the_settings_of_its_rows() -> None:
    stored = {"engine": "vllm", "device": "NVIDIA L4", "eager": True, "max_num_seqs": 128}
    on_gpu = estimate._ChosenGpu("l4", 1, None, BaseChoice.auto)
    setup = estimate._engine_setup(compose(["model=llama2_7b"]), on_gpu, [stored])
    assert (setup.eager, setup.max_num_seqs) == (True, 128)
    new = estimate._engine_setup(compose(["model=llama2_7b"]), on_gpu)
    assert (new.eager, new.max_num_seqs) == (None, None)


def test_the_prefix_of_prompts_is_what_all_begin_with() -> None:
    assert estimate._common_prefix([(1, 2, 3), (1, 2, 4, 5), (1, 2)]) == 2
    assert estimate._common_prefix([(1, 2)]) == 2
    assert estimate._common_prefix([(2,), (1,)]) == estimate._common_prefix([]) == estimate._common_prefix([()]) == 0
    # a system prompt costs its own tokens once
    plain, llama2 = planned("system_prompt=empty"), planned("system_prompt=llama2")
    assert plain.seconds and llama2.seconds
    assert llama2.prompt_tokens > 2 * plain.prompt_tokens
    assert llama2.seconds.prefill < 1.3 * plain.seconds.prefill
