"""Test each model family of the presets: layout, exact weights at many points, and outputs as in transformers."""

from __future__ import annotations

import dataclasses
import functools
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch

from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import ORIGIN, Point
from workers.engines.base import Engine, EngineSpec, measure_scalars
from workers.engines.factory import open_engine
from workers.engines.vllm import VllmEngine
from workers.noise.definition import Array
from workers.noise.reference import perturb
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.perturbation import terms

pytestmark = pytest.mark.engine

SPEC = EngineSpec(max_model_len=64, max_num_seqs=8, max_num_batched_tokens=256, kv_cache_gib=0.05)
COMPARED = 20  # log-probabilities of the likeliest tokens that are compared
ROUNDING = (
    3e-5  # between two engines' float32 log-probabilities; measured: 2e-6 to 1.2e-5, at the origin and away from it
)

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied llama": {"tie_word_embeddings": True},
    "mistral": {},
    "mixtral": {},
    "qwen2": {"tie_word_embeddings": True, "hidden_size": 128},
    "qwen3": {},
    "gemma3": {},
    "phi3": {},
    "olmo2": {},
    "qwen3_moe": {},
}
# For three ranks: two heads and one key-value head per rank, and an odd vocabulary that is padded.
THREE = {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 192}

LINE = RandomDirection(11)
ACROSS = RandomDirection(12, orthogonal_to=11)
ROWS = RandomDirection(13, "filter", exclude=())
PLAIN = RandomDirection(14, "sigma", exclude=("embed",))


@pytest.fixture(scope="module")
def make_family(make_tiny: Callable[..., Path]) -> Callable[..., Path]:
    """Return `make_tiny`, but each model is made once.

    When vLLM has loaded OLMo 2, which it runs through transformers' own class, transformers cannot make such a model in
    this process any more.
    """
    return functools.cache(make_tiny)


def random_points(n: int, seed: int = 0) -> list[Point]:
    """Draw points of one to three directions, of every norm."""
    rng = np.random.default_rng(seed)
    reach = ((LINE, 0.5), (ACROSS, 0.5), (ROWS, 0.3), (PLAIN, 0.02))
    drawn = [rng.choice(4, size=rng.integers(1, 4), replace=False) for _ in range(n)]
    return [
        Point.from_coefficients((reach[i][0], float(rng.uniform(-1, 1)) * reach[i][1]) for i in some) for some in drawn
    ]


def reference_weights(checkpoint: MappedCheckpoint, point: Point, scalars: dict[str, Any]) -> dict[str, Array]:
    """Compute every tensor in float32 by the plain reference, flat, as bits."""
    return {
        info.name: perturb(
            checkpoint.base(info.name),
            info.name,
            terms(point, info.name, info.shape, scalars),
            "float32",
            info.dtype,
        ).view(np.uint32)
        for info in checkpoint.tensors()
    }


def differing(engine: Engine, checkpoint: MappedCheckpoint, expected: dict[str, Array]) -> list[str]:
    """Return the tensors that differ on a rank, or that have an element which no rank holds."""
    differing_tensors = []
    for info in checkpoint.tensors():
        covered, equal = np.zeros(info.size, bool), True
        for rank in range(engine.spec.tensor_parallel):
            for piece in engine.read(info.name, rank):
                slab = piece.slab
                k = slab.k_off + np.arange(slab.rows)[:, None] * slab.k_stride + np.arange(slab.cols)
                covered[k] = True
                equal &= bool(np.array_equal(expected[info.name][k], piece.values))
        if not (equal and covered.all()):
            differing_tensors.append(info.name)
    return differing_tensors


def first_token_logprobs(engine: VllmEngine, prompts: Sequence[Sequence[int]]) -> list[dict[int, float]]:
    """Return the log-probabilities of the likeliest first tokens."""
    from vllm import SamplingParams, TokensPrompt

    outputs = engine._llm.generate(
        [TokensPrompt(prompt_token_ids=list(ids)) for ids in prompts],
        SamplingParams(temperature=0.0, max_tokens=1, logprobs=COMPARED, detokenize=False),
        use_tqdm=False,
    )
    engine._reset_prefix_cache()
    return [{token: entry.logprob for token, entry in output.outputs[0].logprobs[0].items()} for output in outputs]


@functools.cache
def process_without_vllm() -> ProcessPoolExecutor:
    """Return a process for transformers: when vLLM loads OLMo 2, it changes transformers' class in its own process."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


@pytest.fixture(scope="module", autouse=True)
def ended_processes() -> Iterator[None]:
    yield
    process_without_vllm().shutdown()
    process_without_vllm.cache_clear()


def reference_logprobs(folder: Path, prompts: Sequence[Sequence[int]]) -> list[Array]:
    """Compute the log-probabilities of all first tokens with transformers."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([list(ids)])).logits[0, -1].log_softmax(-1).numpy() for ids in prompts]


def copy_with_weights(folder: Path, base: Path, tensors: dict[str, Array]) -> Path:
    """Copy the base's folder and replace its weights by these float32 tensors (given as bits)."""
    from safetensors.numpy import save_file

    checkpoint = MappedCheckpoint(base)
    shutil.copytree(base, folder)
    save_file(
        {t.name: tensors[t.name].view(np.float32).reshape(t.shape) for t in checkpoint.tensors()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return folder


def largest_difference(actual: list[dict[int, float]], expected: list[Array]) -> float:
    return max(
        abs(value - float(row[token]))
        for logprobs, row in zip(actual, expected, strict=True)
        for token, value in logprobs.items()
    )


def check_points(
    folder: Path, tmp_path: Path, n: int = 50, tensor_parallel: int = 1, threads: int | None = None
) -> None:
    """Apply n points; check weights and outputs, the number of threads, and that the origin is restored."""
    checkpoint = MappedCheckpoint(folder)
    prompts = [[40, 41, 42, 43, 44, 45], [90, 17, 200], [7] * 12]
    scalars = {d.id: measure_scalars(checkpoint, d) for d in (LINE, ACROSS, ROWS, PLAIN)}
    points = random_points(n)
    base = reference_weights(checkpoint, ORIGIN, scalars)
    moved = reference_weights(checkpoint, points[-1], scalars)
    folders = [folder, copy_with_weights(tmp_path / "moved", folder, moved)]
    expected = [process_without_vllm().submit(reference_logprobs, each, prompts).result() for each in folders]
    spec = dataclasses.replace(SPEC, model_dir=str(folder), tensor_parallel=tensor_parallel, threads=threads)
    engine = open_engine(spec)
    assert isinstance(engine, VllmEngine)
    try:
        assert threads is None or numba.get_num_threads() == threads
        engine.verify_writes()
        assert differing(engine, checkpoint, base) == []
        at_origin = first_token_logprobs(engine, prompts)
        difference = largest_difference(at_origin, expected[0])
        assert difference < ROUNDING, difference
        for i, point in enumerate(points):
            engine.apply_point(point, scalars)
            if i % 10 == 0:
                assert differing(engine, checkpoint, reference_weights(checkpoint, point, scalars)) == []
        assert differing(engine, checkpoint, moved) == [] and len(differing(engine, checkpoint, base)) > 5
        assert largest_difference(first_token_logprobs(engine, prompts), expected[1]) < max(2 * difference, ROUNDING)
        engine.apply_point(ORIGIN, {})
        assert differing(engine, checkpoint, base) == []
        assert first_token_logprobs(engine, prompts) == at_origin
    finally:
        engine.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_points_of_each_family(make_family: Callable[..., Path], family: str, tmp_path: Path) -> None:
    check_points(make_family(family.split()[-1], **FAMILIES[family]), tmp_path)


def add_image_encoder(folder: Path) -> Path:
    """Combine a tiny gemma3 with an image encoder; also store its tied head and the encoder's position ids."""
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=json.loads((folder / "config.json").read_text()),
        vision_config=sizes | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=2,
        boi_token_index=3,
        eoi_token_index=4,
        pad_token_id=0,
        eos_token_id=1,
    )
    text = {f"language_model.{name}": tensor for name, tensor in load_file(file).items()}
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    stored = load_file(file)
    assert text.keys() < stored.keys()
    text["language_model.lm_head.weight"] = text["language_model.model.embed_tokens.weight"].clone()
    text["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(4)[None]
    save_file(stored | text, file, {"format": "pt"})
    return folder


def test_points_of_a_language_model_with_an_image_encoder(make_tiny: Callable[..., Path], tmp_path: Path) -> None:
    """vLLM opens such a model only if torchvision is installed, which comes with vLLM for GPUs."""
    pytest.importorskip("torchvision")
    folder = add_image_encoder(make_tiny("gemma3"))
    names = {info.name for info in MappedCheckpoint(folder).tensors()}
    assert len(names) == 28 and all(name.startswith("language_model.model.") for name in names)
    check_points(folder, tmp_path)


@pytest.fixture
def all_threads() -> Iterator[None]:
    """Let numba use every core; restore its and torch's number of threads after the test."""
    before = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    yield
    numba.set_num_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.mark.parametrize(("family", "ranks"), [("llama", 3), pytest.param("qwen2", 2, marks=pytest.mark.slow)])
def test_points_over_several_ranks_and_one_thread(
    make_tiny: Callable[..., Path], family: str, ranks: int, tmp_path: Path, all_threads: None
) -> None:
    """Measuring a direction for several ranks respects the number of threads, too."""
    settings = THREE | {"tie_word_embeddings": True} if ranks == 3 else {"hidden_size": 128}
    folder = make_tiny(family, dtype="bfloat16" if ranks == 3 else "float32", **settings)
    check_points(folder, tmp_path, 20, ranks, threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma3", "phi3", "olmo2", "mixtral", "qwen3_moe"])
def test_points_of_each_family_over_two_ranks(make_family: Callable[..., Path], family: str, tmp_path: Path) -> None:
    check_points(make_family(family), tmp_path, 50, 2)
