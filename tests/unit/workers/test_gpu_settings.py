"""Settings of vLLM on a GPU: one function of model, card and request, checked on a table of cards and models."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from orchestrator.planning.memory import estimate_memory, gpu_memory_of, resolve_setup
from orchestrator.planning.workload import EngineSetup, ModelSize, PromptLoad
from orchestrator.utils.choices import Dtype
from orchestrator.utils.errors import UserError
from workers.engines import vllm_settings
from workers.engines.base import EngineSpec
from workers.engines.gpu_settings import (
    GIB,
    MAX_SEQUENCES,
    Requested,
    VisitSize,
    captured_batches,
    card_bytes,
    gpu_settings,
)
from workers.noise.definition import GPU_PART
from workers.weights.checkpoint import MappedCheckpoint

pytestmark = pytest.mark.thorough


GB = 10**9
CARDS = {24: "rtx4090", 40: "a100_40", 48: "l40s", 80: "h100", 141: "h200", 180: "b200"}
MODELS = {  # parameters, layers, hidden, key-value heads, head size, vocabulary
    "1B": (1_235_814_400, 16, 2048, 8, 64, 128256),
    "3B": (3_212_749_824, 28, 3072, 8, 128, 128256),
    "8B": (8_030_261_248, 32, 4096, 8, 128, 128256),
    "14B": (14_768_307_200, 40, 5120, 8, 128, 151936),
    "70B": (70_553_706_496, 80, 8192, 8, 128, 128256),
}
# The fewest of 1, 2, 4 and 8 cards that hold the model in bfloat16. None: not even eight do.
FEWEST = {
    "1B": {24: 1, 40: 1, 48: 1, 80: 1, 141: 1, 180: 1},
    "3B": {24: 1, 40: 1, 48: 1, 80: 1, 141: 1, 180: 1},
    "8B": {24: 1, 40: 1, 48: 1, 80: 1, 141: 1, 180: 1},
    "14B": {24: 2, 40: 1, 48: 1, 80: 1, 141: 1, 180: 1},
    "70B": {24: 8, 40: 8, 48: 4, 80: 4, 141: 2, 180: 1},
}
PAPER = PromptLoad(prompts=80, prompt_tokens=4800, max_tokens=512, longest_prompt=100)
TABLE = list(itertools.product(MODELS, CARDS, (1, 2, 4, 8)))


def model_size(name: str) -> ModelSize:
    return ModelSize(name, Dtype.bfloat16, *MODELS[name])


def setup_of(card: int, ranks: int, **settings: object) -> EngineSetup:
    return dataclasses.replace(EngineSetup(gpu=CARDS[card], tensor_parallel=ranks), **settings)


@pytest.mark.parametrize(("name", "card"), list(itertools.product(MODELS, CARDS)))
def test_the_fewest_cards_that_hold_a_model(name: str, card: int) -> None:
    fitting = []
    for ranks in (1, 2, 4, 8):
        memory = estimate_memory(model_size(name), setup_of(card, ranks), [PAPER])
        assert memory is not None
        if memory.fits:
            fitting.append(ranks)
    assert min(fitting, default=None) == FEWEST[name][card]


@pytest.mark.parametrize(("name", "card", "ranks"), TABLE)
def test_whatever_fits_leaves_a_margin_and_holds_every_sequence_at_its_full_length(
    name: str, card: int, ranks: int
) -> None:
    model, setup = model_size(name), setup_of(card, ranks)
    memory = estimate_memory(model, setup, [PAPER])
    assert memory is not None
    if not memory.fits:
        return
    resolved = resolve_setup(model, setup, [PAPER])
    uses = gpu_memory_of(model, setup, [PAPER], memory.base_at)
    assert uses.total == memory.peak <= 0.92 * card * GB
    # computed anew: weights, base, two thirds of a gigabyte at most for a part, logits of the batch
    assert uses.weights >= 2 * MODELS[name][0] // ranks
    assert uses.base in (0, uses.weights)
    assert uses.part == min(GPU_PART, uses.weights // 2) * 5 < 0.34 * GB
    assert resolved.max_num_seqs and resolved.max_num_batched_tokens and not resolved.eager
    assert uses.logits >= resolved.max_num_seqs * MODELS[name][5] * 4
    _, layers, _, heads, head_size, _ = MODELS[name]
    token = 2 * layers * math.ceil(heads / ranks) * head_size * 2
    assert uses.kv >= resolved.max_num_seqs * (100 + 512) * token, "no sequence of the batch is preempted"
    assert uses.kv >= setup.max_model_len * token
    assert uses.kv < 1.4 * max(resolved.max_num_seqs * (100 + 512), setup.max_model_len) * token + 64 * 2**20
    assert resolved.max_num_seqs == 80 or uses.total + 8 * 612 * token > 0.85 * 0.92 * card * GB, "memory limits it"


def test_an_8b_on_a_card_of_24_gb_has_room_for_the_check_of_its_writes() -> None:
    memory = estimate_memory(model_size("8B"), setup_of(24, 1), [PAPER])
    assert memory is not None and memory.fits and memory.base_at == "host"
    uses = gpu_memory_of(model_size("8B"), setup_of(24, 1), [PAPER], "host")
    assert uses.part == 2**26 * (2 + 2 + 1)
    whole_embedding = 128256 * 4096 * (2 + 2 + 1)
    assert uses.total - uses.part + whole_embedding > 0.92 * 24 * GB, "a whole slab would not have fitted"


def test_batches_grow_with_the_visit_up_to_512() -> None:
    def sequences(prompts: int, card: int = 80) -> int | None:
        load = PromptLoad(prompts, 60 * prompts, 64)
        return resolve_setup(model_size("3B"), setup_of(card, 1), [load]).max_num_seqs

    assert [sequences(n) for n in (1, 80, 200, 512, 2000)] == [1, 80, 200, 512, MAX_SEQUENCES]
    exact = setup_of(80, 1, exact=True)
    assert resolve_setup(model_size("3B"), exact, [PAPER, PAPER, PAPER]).max_num_seqs == 80
    assert resolve_setup(model_size("3B"), setup_of(80, 1), [PAPER, PAPER, PAPER]).max_num_seqs == 240


def test_given_settings_are_kept() -> None:
    setup = setup_of(80, 1, max_num_seqs=128, max_num_batched_tokens=4096, eager=True, kv_cache_bytes=GIB)
    resolved = resolve_setup(model_size("8B"), setup, [PAPER])
    assert resolved == setup
    memory = estimate_memory(model_size("8B"), setup, [PAPER])
    assert memory is not None and memory.kv == GIB
    small = setup_of(80, 1, kv_cache_bytes=GIB)  # a batch is what a given cache holds
    sequences = resolve_setup(model_size("8B"), small, [PAPER]).max_num_seqs
    assert sequences and sequences * 612 * 131072 <= GIB


def test_a_cpu_keeps_the_settings_of_stored_studies() -> None:
    resolved = resolve_setup(model_size("1B"), EngineSetup(), [PAPER])
    assert (resolved.max_num_seqs, resolved.max_num_batched_tokens, resolved.eager) == (128, 4096, True)


def test_graphs_cover_every_batch_up_to_the_largest() -> None:
    for sequences in (1, 3, 8, 80, 83, 300, 512):
        sizes = captured_batches(sequences)
        assert sizes == sorted(set(sizes)) and sizes[-1] == sequences and sizes[0] == 1
        padded = [next(size for size in sizes if size >= n) for n in range(1, sequences + 1)]
        assert all(size - n < 16 for n, size in enumerate(padded, 1))


def checkpoint_of(folder: Path, **config: object) -> MappedCheckpoint:
    folder.mkdir()
    sizes = {"hidden_size": 64, "vocab_size": 1000, "num_hidden_layers": 4, "num_attention_heads": 8}
    (folder / "config.json").write_text(json.dumps(sizes | {"num_key_value_heads": 2} | config))
    save_file({"w": np.zeros(1000, np.float16)}, folder / "model.safetensors")
    return MappedCheckpoint(folder)


GPU_SPEC = EngineSpec(device="cuda", dtype="bfloat16", max_model_len=1024, visit=VisitSize(200, 300))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a machine without a GPU report one. The list's only element is the card's memory."""
    memory = [int(79.2 * GIB)]
    monkeypatch.setattr(vllm_settings, "_total_memory", lambda: memory[0])
    return memory


def test_all_actors_on_cards_of_one_kind_have_the_same_settings(tmp_path: Path, card: list[int]) -> None:
    checkpoint = checkpoint_of(tmp_path / "m")
    resolved = []
    for difference in (0, 17 << 20, 300 << 20, -100 << 20):  # another driver, ECC, a desktop
        card[0] = int(79.2 * GIB) + difference
        resolved.append(vllm_settings.resolve_settings(GPU_SPEC, checkpoint, "x"))
    spec, base = resolved[0]
    assert resolved == [resolved[0]] * 4
    assert (spec.max_num_seqs, spec.max_num_batched_tokens, spec.eager, base) == (200, 8192, False, "gpu")
    assert vllm_settings.kv_cache_bytes(spec) % (64 << 20) == 0
    token = 2 * 4 * 2 * 8 * 2
    assert vllm_settings.kv_cache_bytes(spec) >= 200 * 300 * token


def test_the_plan_and_the_engine_compute_the_same_settings(tmp_path: Path, card: list[int]) -> None:
    checkpoint = checkpoint_of(tmp_path / "m")
    spec, base = vllm_settings.resolve_settings(GPU_SPEC, checkpoint, "x")
    model = ModelSize("m", Dtype.bfloat16, 1000, 4, 64, 2, 8, 1000, disk_bytes=2000)
    setup = EngineSetup(gpu="h100", max_model_len=1024, gpu_memory=card[0])
    load = PromptLoad(200, 200 * 50, 100, longest_prompt=200)
    planned = resolve_setup(model, setup, [load])
    memory = estimate_memory(model, setup, [load])
    assert (planned.max_num_seqs, planned.max_num_batched_tokens) == (spec.max_num_seqs, spec.max_num_batched_tokens)
    assert memory is not None and (memory.kv, memory.base_at) == (vllm_settings.kv_cache_bytes(spec), base)


def test_vllm_gets_what_is_planned_for_it_and_no_more(tmp_path: Path, card: list[int]) -> None:
    checkpoint = checkpoint_of(tmp_path / "m")
    spec, base = vllm_settings.resolve_settings(GPU_SPEC, checkpoint, "x")
    whole = vllm_settings.gpu_utilization(spec, checkpoint, base)
    kv, activations, logits = vllm_settings.kv_cache_bytes(spec), 8192 * 64 * 24 * 2, 3 * 200 * 1000 * 4
    graphs = len(captured_batches(200)) * 4 * 2**18
    assert whole * card[0] == pytest.approx(2000 + kv + activations + logits + graphs)
    quarter = dataclasses.replace(GPU_SPEC, gpu_share=0.25)
    shared, _ = vllm_settings.resolve_settings(quarter, checkpoint, "x")
    assert vllm_settings.gpu_utilization(shared, checkpoint, base) <= 0.92 * 0.25


def test_actors_that_share_a_gpu_compute_their_cache_and_refuse_only_what_cannot_fit(
    tmp_path: Path, card: list[int]
) -> None:
    checkpoint = checkpoint_of(tmp_path / "m")
    quarter, _ = vllm_settings.resolve_settings(dataclasses.replace(GPU_SPEC, gpu_share=0.25), checkpoint, "x")
    assert quarter.kv_cache_gib and quarter.max_num_seqs == 200
    with pytest.raises(UserError, match="its share of this GPU is") as error:
        vllm_settings.resolve_settings(dataclasses.replace(GPU_SPEC, gpu_share=0.02), checkpoint, "x")
    assert error.value.field == "cluster.gpus_per_actor"
    # a whole card is left to vLLM, which measures what it needs
    card[0] = GIB
    vllm_settings.resolve_settings(GPU_SPEC, checkpoint, "x")


def test_a_model_of_unknown_layers_needs_the_size_of_its_cache(tmp_path: Path, card: list[int]) -> None:
    checkpoint = checkpoint_of(tmp_path / "m", num_hidden_layers=None)
    with pytest.raises(UserError, match="give the size in GiB") as error:
        vllm_settings.resolve_settings(GPU_SPEC, checkpoint, "x")
    assert error.value.field == "engine.kv_cache_gib"
    vllm_settings.resolve_settings(dataclasses.replace(GPU_SPEC, kv_cache_gib=1.0), checkpoint, "x")


def test_decoding_uses_graphs_and_prompts_are_eager_unless_the_user_asks_otherwise() -> None:
    """The canary watches prompts: they must run eagerly in every mode."""
    from vllm.config import CompilationConfig, CompilationMode, CUDAGraphMode

    graphs = vllm_settings.graph_options(dataclasses.replace(GPU_SPEC, eager=False, max_num_seqs=80))
    assert graphs["enforce_eager"] is False and graphs["moe_backend"] == "triton"
    config = CompilationConfig(**graphs["compilation_config"])
    assert config.mode == CompilationMode.NONE and config.cudagraph_mode == CUDAGraphMode.FULL_DECODE_ONLY
    assert config.cudagraph_mode.mixed_mode() == CUDAGraphMode.NONE, "a batch with a prompt uses no graph"
    assert config.cudagraph_capture_sizes is not None and config.cudagraph_capture_sizes[-1] == 80
    eager = vllm_settings.graph_options(dataclasses.replace(GPU_SPEC, eager=True))
    assert eager == {"enforce_eager": True, "moe_backend": "triton", "enable_flashinfer_autotune": False}
    assert vllm_settings.graph_options(EngineSpec(eager=True)) == {"enforce_eager": True}


def test_settings_depend_on_nothing_but_their_arguments() -> None:
    size = vllm_settings.RankSize(
        weights=16 * GB, base=16 * GB, layers=32, hidden=4096, vocabulary=128256, kv_token=131072, item_bytes=2,
        base_item_bytes=2,
    )  # fmt: skip
    on_24 = [
        gpu_settings(size, card_bytes(memory), Requested(max_model_len=2048), VisitSize(80, 612), False)
        for memory in (25.2 * GB, 25.3 * GB, 25.7 * GB)
    ]
    assert on_24 == [on_24[0]] * 3 and on_24[0].max_num_seqs % 8 == 0


def test_experts_that_the_kernels_do_not_support_are_refused_in_one_sentence() -> None:
    reason = "Unquantized MoE backend 'TRITON' does not support the deployment configuration."
    with (
        pytest.raises(UserError, match="Triton kernels cannot run") as error,
        vllm_settings.name_unsupported_experts("/m"),
    ):
        raise ValueError(reason)
    assert error.value.field == "model.path"
    with pytest.raises(ValueError, match="another"), vllm_settings.name_unsupported_experts("/m"):
        raise ValueError("another reason")


def test_the_refusal_is_recognized_by_words_that_vllm_uses() -> None:
    from vllm.model_executor.layers.fused_moe.oracle import unquantized

    assert "MoE backend" in inspect.getsource(unquantized.select_unquantized_moe_backend)
