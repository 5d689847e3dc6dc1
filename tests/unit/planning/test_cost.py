"""What `plan` says before anything is loaded: totals by hand, memory against known models, refusals in one sentence."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.compose import compose
from orchestrator.config.presets import Presets
from orchestrator.models import targets
from orchestrator.pipeline import estimate as pricing
from orchestrator.planning import cost as plan
from orchestrator.planning.cost import GB, GPUS, Load, ModelSize, Plan, Room
from orchestrator.utils.errors import UserError

MISTRAL = ModelSize("mistral7b", "bfloat16", 7241732096, 32, 4096, 8, 128, 32000)
LLAMA70 = ModelSize("llama3_3_70b", "bfloat16", 70553706496, 80, 8192, 8, 128, 128256)
SMOL = ModelSize("smollm2_135m", "float32", 134515008, 30, 576, 3, 64, 49152)
PAPER = {"harmful": Load(prompts=80, prompt_tokens=4800, max_tokens=512)}
LAPTOP = {"harmful": Load(prompts=40, prompt_tokens=2000, max_tokens=32)}


def planned(model: ModelSize, room: Room, sets: dict[str, Load] = PAPER, points: int = 61, left: int = 61) -> Plan:
    return plan.estimate(model, room, sets, [tuple(sets)] * left, points=points, tasks=points * len(sets))


def test_totals_count_only_what_is_missing() -> None:
    sets = {"a": Load(10, 500, 32), "b": Load(4, 100, 8)}
    visits = [("a", "b"), ("b",), ("b",)]  # of five points, two are stored whole and two lack `b`
    found = plan.estimate(SMOL, Room(), sets, visits, points=5, tasks=10)
    assert (found.points, found.tasks, found.tasks_stored, found.visits) == (5, 10, 6, 3)
    assert found.responses == 10 + 4 + 4 + 4
    assert found.prompt_tokens == 500 + 3 * 100
    assert found.generated_tokens == 10 * 32 + 3 * 4 * 8


def test_nothing_left_takes_no_time() -> None:
    found = planned(MISTRAL, Room(gpu="h100"), left=0)
    assert (found.tasks_stored, found.responses, found.wall_hours, found.gpu_hours) == (61, 0, 0.0, 0.0)
    assert found.seconds_per_visit is None


def test_memory_by_hand() -> None:
    found = planned(MISTRAL, Room(gpu="h100")).memory
    assert found is not None
    assert found.weights == 2 * 7241732096
    assert found.base == 2 * 7241732096
    assert found.kv == 80 * (60 + 512) * 2 * 32 * 8 * 128 * 2  # sequences, tokens, k and v, layers, heads, width, bytes
    assert found.base_at == "gpu"
    assert found.peak == found.weights + found.base + found.kv + found.overhead <= 0.9 * 80 * GB


@pytest.mark.parametrize(
    ("model", "gpu", "fewest"),
    [
        (MISTRAL, "rtx3090", 1),
        (MISTRAL, "t4", 2),
        (LLAMA70, "h100", 4),
        (LLAMA70, "h200", 2),
        (LLAMA70, "b200", 1),
        (LLAMA70, "rtx4090", 8),
        (LLAMA70, "t4", None),
    ],
)
def test_the_fewest_gpus_that_hold_a_model(model: ModelSize, gpu: str, fewest: int | None) -> None:
    found = planned(model, Room(gpu=gpu))
    assert found.suggested_tensor_parallel == fewest
    assert found.memory is not None
    assert found.memory.fits is (fewest == 1)
    if fewest == 1:
        plan.check_memory(found)
        return
    with pytest.raises(UserError) as refused:
        plan.check_memory(found)
    assert refused.value.field == "engine.tensor_parallel"
    assert (f"engine.tensor_parallel={fewest} fits" if fewest else "not even eight") in str(refused.value)


def test_times_where_it_does_not_fit_are_those_of_what_fits() -> None:
    one, four = planned(LLAMA70, Room(gpu="h100")), planned(LLAMA70, Room(gpu="h100", tensor_parallel=4))
    assert one.seconds == four.seconds
    assert one.gpu_hours == four.gpu_hours
    assert planned(LLAMA70, Room(gpu="t4")).wall_hours is None


def test_a_small_gpu_keeps_the_base_outside_and_asks_fewer_at_once() -> None:
    small, large = planned(MISTRAL, Room(gpu="rtx3090")), planned(MISTRAL, Room(gpu="h100"))
    assert small.memory and large.memory and small.seconds and large.seconds
    assert small.memory.fits and small.memory.base_at == "host"
    assert small.memory.kv < large.memory.kv
    assert small.seconds.write > 5 * large.seconds.write


def test_a_visit_is_no_faster_than_the_weights_pass_through_memory() -> None:
    found = planned(MISTRAL, Room(gpu="h100", eager=False)).seconds
    assert found is not None
    assert found.decode >= 512 * 2 * 7241732096 / GPUS["h100"].bandwidth
    assert found.prefill >= 2 * 7241732096 * 4800 / GPUS["h100"].flops16


def test_five_system_prompts_cost_less_than_five_sweeps() -> None:
    five = {f"prompt{i}": PAPER["harmful"] for i in range(5)}
    one, all_five = planned(MISTRAL, Room(gpu="h100")), planned(MISTRAL, Room(gpu="h100", max_num_seqs=512), five)
    assert one.seconds_per_visit and all_five.seconds_per_visit
    assert one.seconds_per_visit < all_five.seconds_per_visit < 4 * one.seconds_per_visit


def test_actors_share_the_visits_and_the_gpu_hours_stay() -> None:
    one, four = (planned(MISTRAL, Room(gpu="h100", actors=n), points=200, left=200) for n in (1, 4))
    assert one.wall_hours and four.wall_hours and one.gpu_hours and four.gpu_hours
    assert 3 < one.wall_hours / four.wall_hours < 4
    assert one.gpu_hours < four.gpu_hours < 1.5 * one.gpu_hours  # three more starts
    split = planned(MISTRAL, Room(gpu="h100", tensor_parallel=2), points=200, left=200)
    assert split.gpu_hours and split.wall_hours
    assert split.gpu_hours == pytest.approx(2 * split.wall_hours)


def test_what_was_measured_is_believed() -> None:
    found = plan.estimate(SMOL, Room(cores=2), LAPTOP, [("harmful",)] * 10, points=10, tasks=10, measured=4.0)
    assert (found.seconds_per_visit, found.basis) == (4.0, "measured")
    assert found.wall_hours == pytest.approx((10 * 4.0 + found.start_seconds) / 3600)


def test_the_embedded_model_on_a_laptop() -> None:
    """21 points of 40 prompts and 32 tokens take five minutes or so."""
    found = planned(SMOL, Room(cores=2, max_model_len=1024), LAPTOP, points=21, left=21)
    assert found.memory is not None and found.wall_hours is not None
    assert found.wall_hours * 60 < 8
    assert found.gpu_hours is None
    plan.check_memory(found, 5 * GB)
    with pytest.raises(UserError, match=r"model=smollm2_135m: takes about 4.* 2\.0 GB are free") as refused:
        plan.check_memory(found, 2 * GB)
    assert refused.value.field == "model"


@pytest.mark.parametrize(
    ("engine", "write", "held"),
    [("vllm", "repack", 4.01), ("vllm", "inplace", 3.37), ("transformers", "inplace", 1.66)],
)
def test_memory_on_a_cpu_is_what_was_measured(engine: str, write: str, held: float) -> None:
    """GB of one process, by benchmarks/memory.py; the plan is to be within 10%."""
    tied = dataclasses.replace(SMOL, tied=True)
    found = planned(tied, Room(engine=engine, write=write, max_model_len=512), LAPTOP).memory
    assert found is not None and found.peak == pytest.approx(held * GB, rel=0.1)


def test_actors_on_one_cpu_share_its_memory() -> None:
    plan.check_memory(planned(SMOL, Room(actors=1), LAPTOP), 6 * GB)
    with pytest.raises(UserError, match=r"cluster\.actors=1"):
        plan.check_memory(planned(SMOL, Room(actors=2), LAPTOP), 6 * GB)


def test_the_dummy_needs_next_to_nothing() -> None:
    dummy = ModelSize("dummy", "float32", 0)
    found = plan.estimate(dummy, Room(engine="dummy"), LAPTOP, [("harmful",)], points=1, tasks=1, measured=0.5)
    plan.check_memory(found, GB)
    assert found.wall_hours == pytest.approx(0.5 / 3600)


def test_unknown_sizes_are_said_to_be_unknown() -> None:
    found = planned(ModelSize("local", "bfloat16", None), Room(gpu="h100"))
    assert found.memory is None and found.wall_hours is None and found.responses == 61 * 80
    assert any("unknown" in note for note in found.notes)
    plan.check_memory(found)  # nothing can be said against it


@pytest.mark.parametrize(
    ("base", "at"), [("auto", "in the host's memory"), ("host", "in the host's memory"), ("mmap", "mapped from disk")]
)
def test_the_plan_tells_where_the_base_will_be(base: Any, at: str) -> None:
    found = planned(MISTRAL, Room(gpu="rtx4090", base=base))
    plan.check_memory(found)
    assert dict(plan.lines(found))["memory per GPU"].endswith(f"pristine base 14.5 GB ({at})")
    assert any(at in note for note in found.notes)


@pytest.mark.parametrize(
    ("room", "story"),
    [
        (Room(gpu="rtx4090", base="gpu"), "do not fit the GPU: use engine.base=host"),
        (Room(base="gpu"), "there is no GPU: use engine.base=mmap"),
        (Room(gpu="rtx4090", base="host", host_free=GB), "shared memory has 0.9 GiB free"),
        (Room(base="host", host_free=GB), "shared memory has 0.9 GiB free"),
    ],
)
def test_a_place_that_the_actor_would_refuse_is_refused_before_the_start(room: Room, story: str) -> None:
    found = planned(MISTRAL, room)
    assert found.memory and found.memory.fits is False and any(story in note for note in found.notes)
    with pytest.raises(UserError, match=story) as refused:
        plan.check_memory(found)
    assert refused.value.field == "engine.base"


def test_the_plan_and_the_actor_choose_the_same_place() -> None:
    llama8 = ModelSize("llama3_8b", "bfloat16", 8030261248, 32, 4096, 8, 128, 128256)
    assert plan.place(llama8, Room(gpu="a100_40")) == "gpu"
    assert plan.place(llama8, Room(gpu="a100_40", max_num_batched_tokens=16384)) == "host"  # activations come first
    assert plan.place(llama8, Room(gpu="a100_40", kv_cache_bytes=8 * GB)) == "host"
    assert plan.place(MISTRAL, Room(gpu="rtx4090", host_free=GB)) == "mmap"
    assert plan.place(MISTRAL, Room(gpu="rtx4090", base="host", host_free=GB, host_copy=0)) == "host"  # another has it
    assert plan.place(MISTRAL, Room(gpu="rtx4090", base="gpu", tensor_parallel=2)) == "gpu"
    assert plan.place(LLAMA70, Room(gpu="h100", tensor_parallel=4, gpu_memory=85 * GB)) == "gpu"


def test_a_misspelt_gpu() -> None:
    with pytest.raises(UserError, match="did you mean 'h100'") as refused:
        planned(MISTRAL, Room(gpu="h10"))
    assert refused.value.field == "cluster.gpu"
    assert plan.gpu("A100") is GPUS["a100_80"]
    assert plan.gpu("RTX 3090") is GPUS["rtx3090"]


def test_a_gpu_without_bfloat16_is_told() -> None:
    assert any("float16" in note for note in planned(MISTRAL, Room(gpu="v100")).notes)
    half = dataclasses.replace(MISTRAL, dtype="float16")
    assert not any("bfloat16" in note for note in planned(half, Room(gpu="v100")).notes)


def test_disk(tmp_path: Path) -> None:
    found = planned(MISTRAL, Room(gpu="h100"))
    out = tmp_path / "not" / "yet"
    plan.check_disk(out, found)  # the real disk
    assert not (tmp_path / "not").exists()
    with pytest.raises(UserError, match="make room") as refused:
        plan.check_disk(out, found, free=10 * 10**6)
    assert refused.value.field == "out"


@pytest.mark.parametrize(
    ("model", "gpu"),
    list(itertools.product([MISTRAL, LLAMA70, SMOL, ModelSize("local", "bfloat16", None)], [None, *GPUS])),
)
def test_every_plan_can_be_printed_and_written(model: ModelSize, gpu: str | None) -> None:
    found = planned(model, Room(gpu=gpu))
    rows = dict(plan.lines(found))
    assert rows["points"] == "61"
    assert rows["tokens"] == "292,800 in prompts, at most 2,498,560 generated"
    assert ("GPU-hours" in rows) == (found.gpu_hours is not None)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["responses"] == 4880


def priced(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Plan:
    monkeypatch.setattr(pricing, "locate_model", lambda _: None)
    monkeypatch.setattr(targets, "locate_model", lambda _: None)
    asked = ("model=llama2_7b", "probes=harmful", "probes.limit=40", "sampling.early_stop=false", "cluster.gpu=h100")
    return pricing.price(compose([*asked, *overrides]), Presets())


def test_what_is_asked_of_the_base_is_priced(monkeypatch: pytest.MonkeyPatch) -> None:
    found = priced(monkeypatch, "cluster.gpu=rtx4090", "engine.base=gpu")
    assert found.memory and found.memory.base_at is None
    assert any(note.startswith("engine.base=gpu: ") for note in found.notes)
    found = priced(monkeypatch, "engine.base=gpu", "engine.device=cpu")
    assert any("there is no GPU" in note for note in found.notes)
    shared = priced(monkeypatch, "cluster.gpus_per_actor=0.25", "engine.kv_cache_gib=1")
    assert shared.memory and shared.memory.base_at != "gpu", "a quarter of an H100"


def test_model_judges_are_priced_beside_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    found = priced(monkeypatch, "judges=[keyword,wildguard,harmbench_llama2]", "sampling.max_tokens=100")
    guard, harmbench = found.judging  # the keyword judge costs nothing
    assert guard.responses == harmbench.responses == found.responses == 40 * found.points
    for each, parameters in ((guard, 7_241_732_096), (harmbench, 13_015_864_320)):
        assert each.memory is not None and each.memory.fits and each.memory.weights == 2 * parameters
        # It reads its template, the prompt and the whole response, at the speed of its arithmetic or slower.
        assert each.responses * (100 + plan.PROMPT_TOKENS) < each.tokens < each.responses * 1000
        assert each.gpu_hours is not None and each.gpu_hours * 3600 > 2 * parameters * each.tokens / 989e12
    told = dict(plan.lines(found))
    assert "at most 2,440 responses" in told["judge wildguard"] and "GPU-hours" in told["judge harmbench_llama2"]
    assert json.loads(json.dumps(found.to_json()))["judging"][0]["judge"] == "wildguard"
    assert priced(monkeypatch).judging == ()


def test_a_judge_is_priced_for_the_groups_that_it_tells_of(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (
        "probe_sets=[harmful,benign,capability_choice]",
        "probes.limit=10",
        "judges=[keyword,wildguard,llama_guard3]",
    )
    guard, llama = priced(monkeypatch, *asked).judging
    assert guard.responses == 2 * llama.responses > 0  # one tells of harm and refusals, the other of harm alone
