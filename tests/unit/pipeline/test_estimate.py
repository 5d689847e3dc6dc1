"""Plans of configurations whose weights are not on this machine."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from orchestrator.cli.plan_table import plan_rows
from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.models import targets
from orchestrator.pipeline import estimate, prompt_sets
from orchestrator.planning.cost import Plan
from orchestrator.planning.limits import check_memory
from orchestrator.utils.choices import BaseChoice
from orchestrator.utils.console import duration
from orchestrator.utils.errors import UserError

pytestmark = pytest.mark.thorough


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "locate_model", lambda _: None)
    monkeypatch.setattr(estimate, "locate_base", lambda _: None)
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
    shared = planned("cluster.gpus_per_actor=0.25")
    assert shared.memory and shared.memory.base_at != "gpu", "a quarter of an H100"


def test_actors_that_share_a_gpu_are_planned_for_their_share() -> None:
    quarter = planned("cluster.gpus_per_actor=0.25")
    assert quarter.memory and quarter.memory.fits and quarter.memory.capacity
    assert quarter.memory.peak <= quarter.memory.capacity < 20 * 10**9
    check_memory(quarter)
    eighth = planned("cluster.gpus_per_actor=0.125")
    assert dict(plan_rows(eighth))["GPUs"] == "1 x 1 H100: does not fit; the share of an actor is 0.125"
    with pytest.raises(UserError, match="raise it") as error:
        check_memory(eighth)
    assert (error.value.field, error.value.value) == ("cluster.gpus_per_actor", "0.125")


def test_transformers_is_planned_for_the_gpu_that_is_stated() -> None:
    on_gpu, on_cpu = planned("engine=transformers"), planned("engine=transformers", "engine.device=cpu")
    vllm = planned()
    assert on_cpu.gpu_hours is None and on_gpu.gpu_hours and vllm.gpu_hours
    assert on_gpu.gpu_hours > 3 * vllm.gpu_hours, "batches of 16, eagerly"
    assert on_gpu.seconds and on_gpu.seconds.binds == "launching kernels"
    # three batches of 16, 16 and 8 prompts; each of 512 steps launches 32 layers
    assert on_gpu.seconds.decode == pytest.approx(3 * 512 * (2e-3 + 32 * 7e-4))
    memory = on_gpu.memory
    assert memory and memory.fits and memory.base_at == "mmap" and memory.capacity
    assert memory.weights == 2 * 6_738_415_616
    assert memory.kv == 16 * (estimate.TEMPLATE_PROMPT_TOKENS + 512) * 2 * 32 * 32 * 128 * 2
    large = planned("model=llama3_3_70b", "engine=transformers", "engine.tensor_parallel=1")
    assert dict(plan_rows(large))["GPUs"] == "1 x 1 H100: does not fit; engine=vllm can use several for each actor"
    with pytest.raises(UserError, match="use engine=vllm") as error:
        check_memory(large)
    assert error.value.field == "engine"


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


def test_uncertain_texts_are_few_and_read_on_request_only() -> None:
    uncertain = planned("sampling.max_tokens=100", "judging.log_probability=uncertain")
    assert uncertain.log_probability is not None and uncertain.log_probability.share == estimate.UNCERTAIN_SHARE
    assert uncertain.log_probability.responses == math.ceil(estimate.UNCERTAIN_SHARE * uncertain.responses)
    assert "about 122 responses" in dict(plan_rows(uncertain))["log-probability"]
    assert Plan.from_json(json.loads(json.dumps(uncertain.to_json()))) == uncertain
    assert planned().log_probability is None


def test_the_plan_of_a_stored_sweep_uses_the_settings_of_its_rows() -> None:
    stored = {"engine": "vllm", "device": "NVIDIA L4", "eager": True, "max_num_seqs": 128}
    on_gpu = estimate._ChosenGpu("l4", 1, None, BaseChoice.auto)
    setup = estimate._engine_setup(compose(["model=llama2_7b"]), on_gpu, [stored])
    assert (setup.eager, setup.max_num_seqs) == (True, 128)
    new = estimate._engine_setup(compose(["model=llama2_7b"]), on_gpu)
    assert (new.eager, new.max_num_seqs) == (None, None)
    on_cpu = estimate._ChosenGpu(None, 1, None, BaseChoice.auto)
    earlier = {"engine": "vllm", "device": "cpu AVX512", "kv_block_size": 128}
    blocks = [estimate._engine_setup(compose([]), on_cpu, engines).shared_block for engines in ([], [earlier])]
    assert blocks == [32, 128], "prompts share prefixes in whole blocks"


def test_the_prefix_of_prompts_is_what_all_begin_with() -> None:
    assert estimate._common_prefix([(1, 2, 3), (1, 2, 4, 5), (1, 2)]) == 2
    assert estimate._common_prefix([(1, 2)]) == 2
    assert estimate._common_prefix([(2,), (1,)]) == estimate._common_prefix([]) == estimate._common_prefix([()]) == 0
    # a system prompt costs its own tokens once
    plain, llama2 = planned("system_prompt=empty"), planned("system_prompt=llama2")
    assert plain.seconds and llama2.seconds
    assert llama2.prompt_tokens > 2 * plain.prompt_tokens
    assert llama2.seconds.prefill < 1.3 * plain.seconds.prefill


def test_a_long_sweep_names_a_smaller_one() -> None:
    long = planned("engine.device=cpu", "cluster.gpu=null", "sampling.max_tokens=512", "grid.directions=3")
    assert (long.wall_hours or 0) > 1
    (note,) = (note for note in long.notes if note.startswith("smaller: +experiment=quick"))
    assert "grid.directions=1" in note
    quick = planned("engine.device=cpu", "cluster.gpu=null", "experiment=quick", "sampling.early_stop=true")
    assert f"takes at most {duration((quick.wall_hours or 0) * 3600)} here" in note
    assert not any("smaller" in note for note in quick.notes)


def test_data_sets_that_are_not_here_are_estimated_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFETY_LANDSCAPE_CACHE", str(tmp_path))
    monkeypatch.setattr(prompt_sets, "load_probe_set", lambda _: pytest.fail("downloads"))
    plan = planned("probes=advbench", "probes.limit=80")
    assert plan.responses == 80 * plan.points
    assert any(note.startswith("80 of 520 prompts of advbench are assumed") for note in plan.notes)
    assert planned("probes=advbench", "probes.limit=null", "probes.offset=500").responses == 20 * plan.points
    harmbench_and_mmlu = planned("probe_sets=[harmbench,mmlu]", "probes.limit=null")
    assert harmbench_and_mmlu.responses == (200 + 14_042) * plan.points
    assert harmbench_and_mmlu.generated_tokens == (200 * 512 + 14_042) * plan.points, "a question has one token"


def test_every_preset_of_a_hub_says_how_many_rows_it_has() -> None:
    presets = Presets()
    loaded = {name: presets.load("probes", name) for name in presets.options("probes")}
    assert [name for name, preset in loaded.items() if preset.get("hub") and not preset.get("rows")] == []


def test_one_actor_never_waits_for_the_levels_of_an_adaptive_grid() -> None:
    """A resumed sweep may have fewer visits left than what would keep several actors busy."""
    plan = planned("grid.steps=3", "grid.directions=1")
    assert plan.setup.actors == 1 and plan.visits < estimate.VISITS_PER_ACTOR
    assert estimate._with_levels_note(plan) == plan
    several = dataclasses.replace(plan, setup=dataclasses.replace(plan.setup, actors=2))
    assert "with 2 actors for" in estimate._with_levels_note(several).notes[-1]
