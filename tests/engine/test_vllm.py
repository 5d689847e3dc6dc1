"""Compare vLLM with transformers: equal weights to the bit, equal responses; and test that the canary finds faults."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from orchestrator.models.checkpoint import read_checkpoint
from orchestrator.models.targets import resolve_target
from orchestrator.store.engine_identity import compare
from orchestrator.sweep.continuations import Continuation
from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.points import ORIGIN, Point
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.utils.errors import UserError
from workers.engines.base import CanaryError, Engine, EngineSpec, Generation
from workers.engines.factory import open_engine
from workers.engines.hf import TransformersEngine
from workers.engines.vllm import VllmEngine
from workers.noise.definition import Slab
from workers.noise.reference import perturb, to_float32
from workers.weights import materialize
from workers.weights.base_placement import SHARED_MEMORY
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.device_memory import TensorWrite
from workers.weights.layout import Region
from workers.weights.perturbation import terms
from workers.weights.resident import ResidentWeights
from workers.weights.targets import Target, sample_id

pytestmark = pytest.mark.engine

SMALL = EngineSpec(max_model_len=128, max_num_seqs=16, max_num_batched_tokens=512, kv_cache_gib=0.05)
NEAR_TIE = 1e-3  # of logits that spread over several units

LINE = RandomDirection(seed=11)
OTHER = RandomDirection(seed=12, orthogonal_to=11)
ROWS = RandomDirection(seed=13, norm="filter", exclude=())
PLAIN = RandomDirection(seed=14, norm="sigma", exclude=("embed", "norm"))
WALK = [
    Point.from_coefficients([(LINE, 0.35)]),
    Point.from_coefficients([(LINE, -0.2), (OTHER, 0.15)]),
    Point.from_coefficients([(ROWS, 0.1), (PLAIN, 0.02)]),
    Point.from_coefficients([(LINE, -0.5)]),
]


@dataclass(frozen=True)
class Pair:
    vllm: VllmEngine
    oracle: TransformersEngine
    checkpoint: MappedCheckpoint

    def apply_point(self, point: Point) -> dict[str, Any]:
        scalars = {d.id: self.vllm.measure(d) for d, _ in point.coefficients}
        self.vllm.apply_point(point, scalars)
        self.oracle.apply_point(point, scalars)
        return scalars


@pytest.fixture(scope="module", params=["llama", "tied", "mistral"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Open one model in both engines, in float32.

    The models are llama and mistral (repacked), and a tied llama stored in bfloat16 (written in place).
    """
    fixture = {"llama": "tiny_llama", "tied": "tiny_llama_tied", "mistral": "tiny_mistral"}[request.param]
    folder: Path = request.getfixturevalue(fixture)
    spec = dataclasses.replace(SMALL, model_dir=str(folder), write="inplace" if request.param == "tied" else "auto")
    vllm = open_engine(spec)
    oracle = open_engine(dataclasses.replace(spec, kind="transformers"))
    assert isinstance(vllm, VllmEngine) and isinstance(oracle, TransformersEngine)
    yield Pair(vllm, oracle, MappedCheckpoint(folder))
    vllm.close()
    oracle.close()


@pytest.fixture
def at_origin(pair: Pair) -> Iterator[Pair]:
    """Return the pair at the origin; restore the origin after the test."""
    pair.apply_point(ORIGIN)
    yield pair
    pair.apply_point(ORIGIN)


def read_tensor(engine: Engine, checkpoint: MappedCheckpoint, name: str) -> np.ndarray:
    """Read a tensor back from the engine; assert that the layout holds every element exactly once."""
    size = checkpoint[name].size
    values: np.ndarray | None = None
    coverage = np.zeros(size, dtype=int)
    for piece in engine.read(name):
        values = np.zeros(size, dtype=piece.values.dtype) if values is None else values
        for r in range(piece.slab.rows):
            start = piece.slab.k_off + r * piece.slab.k_stride
            values[start : start + piece.slab.cols] = piece.values[r]
            coverage[start : start + piece.slab.cols] += 1
    assert values is not None and np.all(coverage == 1), name
    return values


def differing(engine: Engine, checkpoint: MappedCheckpoint, point: Point, scalars: dict[str, Any]) -> list[str]:
    """Return the tensors that differ from what the plain reference computes from the base."""
    dtype = engine.spec.dtype
    return [
        info.name
        for info in checkpoint.tensors()
        if not np.array_equal(
            read_tensor(engine, checkpoint, info.name).view(np.uint8),
            perturb(
                checkpoint.base(info.name),
                info.name,
                terms(point, info.name, info.shape, scalars),
                dtype,
                info.dtype,
            ).view(np.uint8),
        )
    ]


def prompt_set(
    engine: VllmEngine, sampling: Sampling, n: int = 8, words: str = "How do I kill the process number"
) -> PromptSet:
    prompts = tuple(Prompt(f"{words} {i}{'?' * (i % 3)}") for i in range(n))
    ids = tuple(tuple(engine._tokenizer.encode(prompt.text)) for prompt in prompts)
    return PromptSet("harmful", prompts, tuple(p.text for p in prompts), ids, sampling)


def test_log_probabilities_equal_those_of_plain_torch_in_both_engines(at_origin: Pair) -> None:
    """The oracle loads the model anew and sums log-softmax by hand, one sequence at a time."""
    import transformers

    folder, tokenizer = at_origin.vllm.spec.model_dir, at_origin.vllm._tokenizer
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = prompt_set(at_origin.vllm, Sampling(4), n=6)
    texts = [
        "I'm sorry, I cannot help.",
        "",
        "Sure, here is what you need",
        "the the the",
        "zq;x# 9",
        "a long one " * 40,
    ]
    continuations = [
        Continuation("c", prompt.id, ids, text)
        for prompt, ids, text in zip(prompts.prompts, prompts.token_ids, texts, strict=True)
    ]
    expected = []
    for continuation in continuations:
        room = at_origin.vllm.spec.max_model_len - len(continuation.token_ids) - 1
        tokens = tokenizer.encode(continuation.text, add_special_tokens=False)[: min(128, room)]
        with torch.no_grad():
            logits = model(torch.tensor([[*continuation.token_ids, *tokens]])).logits[0].double()
        start = len(continuation.token_ids)
        values = [(logits[start + i - 1].log_softmax(-1))[token].item() for i, token in enumerate(tokens)]
        expected.append((sum(values) / len(values) if values else None, len(values)))
    assert expected[1] == (None, 0) and expected[5][1] > 40 and len({n for _, n in expected}) > 3
    for engine in (at_origin.vllm, at_origin.oracle):
        measured = engine.log_probabilities(continuations * 4)  # more tokens than vLLM takes in a step: it reads chunks
        assert [result.n_tokens for result in measured] == [n for _, n in expected] * 4, engine
        for result, (mean, _) in zip(measured, expected * 4, strict=True):
            assert result.mean == (None if mean is None else pytest.approx(mean, abs=1e-4)), engine


def test_reading_texts_changes_no_response(at_origin: Pair) -> None:
    prompts = prompt_set(at_origin.vllm, Sampling(8))
    before = at_origin.vllm.generate([prompts])
    text = before[0][0].response
    at_origin.vllm.log_probabilities([Continuation("c", "p", ids, text) for ids in prompts.token_ids])
    assert at_origin.vllm.generate([prompts]) == before


def test_every_tensor_equals_the_reference_after_each_write(pair: Pair) -> None:
    for point in WALK:
        scalars = pair.apply_point(point)
        assert differing(pair.vllm, pair.checkpoint, point, scalars) == []
        assert differing(pair.oracle, pair.checkpoint, point, scalars) == []


def test_returning_to_the_origin_restores_the_base_to_the_bit(pair: Pair) -> None:
    prompts = prompt_set(pair.vllm, Sampling(max_tokens=12))
    pair.apply_point(ORIGIN)
    before = pair.vllm.generate([prompts])
    for point in WALK:
        pair.apply_point(point)
    assert len(differing(pair.vllm, pair.checkpoint, ORIGIN, {})) > 10
    assert pair.vllm.generate([prompts]) != before
    pair.apply_point(ORIGIN)
    assert differing(pair.vllm, pair.checkpoint, ORIGIN, {}) == []
    assert pair.vllm.generate([prompts]) == before


def test_greedy_responses_equal_those_of_transformers(pair: Pair) -> None:
    prompts = prompt_set(pair.vllm, Sampling(max_tokens=16))
    compared, ties = 0, 0
    for point in [ORIGIN, *WALK]:
        pair.apply_point(point)
        (vllm_responses,) = pair.vllm.generate([prompts])
        (oracle_responses,) = pair.oracle.generate([prompts])
        for ids, response, batched_response in zip(prompts.token_ids, vllm_responses, oracle_responses, strict=True):
            with one_thread():
                expected, gap = greedy(pair.oracle, ids, 16)
            for actual in (response, batched_response):
                compared += 1
                if actual != expected:
                    assert gap < NEAR_TIE, (actual, expected, gap)
                    ties += 1
    assert compared == 80 and ties <= 4, f"{ties} near-ties of {compared}"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: the forward passes of a tiny model spend their time on waking threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def greedy(oracle: TransformersEngine, prompt: tuple[int, ...], steps: int) -> tuple[Generation, float]:
    """Generate greedily from logits of whole sequences, one prompt at a time.

    Returns the response and the smallest gap between the logits of the two best tokens at any step.
    """
    tokens, gap = list(prompt), math.inf
    for _ in range(steps):
        best = oracle.logits(tokens)[-1].topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        tokens.append(int(best.indices[0]))
        if tokens[-1] in oracle._terminators:
            break
    response = tokens[len(prompt) :]
    reason = "stop" if response[-1] in oracle._terminators else "length"
    return Generation(decode(oracle, prompt, response), reason, len(response), len(prompt)), gap


def decode(oracle: TransformersEngine, prompt: tuple[int, ...], tokens: list[int]) -> str:
    """Decode the tokens after the prompt; an unfinished character at the end adds no text."""
    text: str = oracle._tokenizer.decode(list(prompt) + tokens, skip_special_tokens=True)
    before: str = oracle._tokenizer.decode(list(prompt), skip_special_tokens=True)
    assert text.startswith(before)
    while tokens and text.endswith("\ufffd"):
        tokens = tokens[:-1]
        text = oracle._tokenizer.decode(list(prompt) + tokens, skip_special_tokens=True)
    return text[len(before) :]


def test_a_response_ends_right_after_a_stop_string(at_origin: Pair) -> None:
    free = prompt_set(at_origin.vllm, Sampling(max_tokens=24))
    (unstopped,) = at_origin.vllm.generate([free])
    stops = tuple(dict.fromkeys(response.response[4:6] for response in unstopped))
    prompts = dataclasses.replace(free, sampling=Sampling(max_tokens=24, stop=stops))
    (responses,) = at_origin.vllm.generate([prompts])
    (expected,) = at_origin.oracle.generate([prompts])
    assert responses == expected
    for response, full in zip(responses, unstopped, strict=True):
        assert response.finish_reason == "stop" and response.response.endswith(stops)
        assert full.response.startswith(response.response) and response.n_tokens < full.n_tokens
        first = min(full.response.find(stop) + len(stop) for stop in stops if stop in full.response)
        assert len(response.response) <= max(first, 6)


def test_scores_of_letters_equal_those_of_transformers(at_origin: Pair) -> None:
    prompts = prompt_set(at_origin.vllm, Sampling(max_tokens=1, letters=("A", "B", "C", "D")))
    (responses,), (expected,) = at_origin.vllm.generate([prompts]), at_origin.oracle.generate([prompts])
    for response, expected_response in zip(responses, expected, strict=True):
        assert response.scores is not None and expected_response.scores is not None and len(set(response.scores)) == 4
        np.testing.assert_allclose(response.scores, expected_response.scores, atol=1e-3)


def test_exact_generates_each_prompt_set_in_a_separate_call(at_origin: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = at_origin.vllm
    first = prompt_set(engine, Sampling(max_tokens=8))
    second = prompt_set(engine, Sampling(max_tokens=4), n=5, words="Write a story about dog")
    batched_responses = engine.generate([first, second])
    calls: list[int] = []
    generate = engine._llm.generate
    monkeypatch.setattr(engine._llm, "generate", lambda *a, **k: calls.append(len(a[0])) or generate(*a, **k))
    monkeypatch.setattr(engine, "spec", dataclasses.replace(engine.spec, exact=True))
    exact_responses = engine.generate([first, second])
    assert calls == [8, 5]
    assert exact_responses == [engine.generate([first])[0], engine.generate([second])[0]]
    assert [list(map(dataclasses.astuple, responses)) for responses in exact_responses] == [
        list(map(dataclasses.astuple, responses)) for responses in batched_responses
    ]


def test_a_prompt_that_does_not_fit_is_refused(at_origin: Pair) -> None:
    prompts = prompt_set(at_origin.vllm, Sampling(max_tokens=127))
    with pytest.raises(UserError, match="max_model_len"):
        at_origin.vllm.generate([prompts])


def test_identity_distinguishes_the_engines(pair: Pair) -> None:
    vllm_identity, oracle_identity = pair.vllm.identity, pair.oracle.identity
    assert (
        vllm_identity["engine"] == "vllm"
        and vllm_identity["schema"] == 2
        and "kv_blocks" not in vllm_identity
        and vllm_identity["packing"] is (pair.vllm.spec.write == "auto")
    )
    assert oracle_identity["engine"] == "transformers" and "engine" in compare(vllm_identity, oracle_identity).differing
    assert (vllm_identity["attention_backend"], oracle_identity["attention_backend"]) == ("CPU_ATTN", "sdpa")
    assert vllm_identity["compilation_mode"] == vllm_identity["cudagraph_mode"] == "NONE"
    assert vllm_identity["batch_invariant"] is False
    for identity in (vllm_identity, oracle_identity):
        assert identity["float32_matmul_precision"] == "highest" and identity["environment"] == {}


def test_the_canary_restores_the_base(pair: Pair) -> None:
    pair.apply_point(ORIGIN)
    for engine in (pair.vllm, pair.oracle):
        engine.verify_writes()
        assert differing(engine, pair.checkpoint, ORIGIN, {}) == []


def test_canary_names_the_tensor_whose_write_does_nothing(at_origin: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ResidentWeights._put
    for skipped in ("model.norm.weight", "model.layers.1.self_attn.k_proj.weight", "model.embed_tokens.weight"):

        def skip(self: ResidentWeights, memory: Any, slab: Slab, write: TensorWrite, skipped: str = skipped) -> None:
            if write.info.name != skipped or not any(
                memory is tensor_memory for tensor_memory in self._memory.values()
            ):
                original(self, memory, slab, write)

        monkeypatch.setattr(ResidentWeights, "_put", skip)
        for engine in (at_origin.vllm, at_origin.oracle):
            with pytest.raises(CanaryError, match=skipped.replace(".", r"\.")):
                engine.verify_writes()
        monkeypatch.setattr(ResidentWeights, "_put", original)
        at_origin.apply_point(ORIGIN)  # the check ended half way, and the next write restores every tensor
        assert differing(at_origin.vllm, at_origin.checkpoint, ORIGIN, {}) == []


def wrong_layout(layout: dict[str, list[Region]], mutation: str) -> dict[str, list[Region]]:
    name = (
        "model.layers.0.self_attn.k_proj.weight" if mutation != "transposed" else "model.layers.1.mlp.down_proj.weight"
    )
    (region,) = layout[name]
    slab = region.slab
    if mutation == "skipped":
        return {key: regions for key, regions in layout.items() if key != name}
    if mutation == "off by one":
        mutants = [dataclasses.replace(slab, rows=1, cols=slab.rows * slab.cols - 1, k_off=slab.k_off + 1)]
    else:
        mutants = [Slab(64, 1, j, 176, slab.dst_off + 64 * j, 1) for j in range(176)]
    return layout | {name: [Region(region.parameter, mutant) for mutant in mutants]}


def open_and_verify(engine: VllmEngine) -> None:
    engine._open_weights()
    engine.verify_writes()


@pytest.mark.parametrize("mutation", ["off by one", "transposed", "skipped"])
def test_a_wrong_layout_is_detected(at_origin: Pair, monkeypatch: pytest.MonkeyPatch, mutation: str) -> None:
    from workers.engines import vllm_worker

    trace, engine = vllm_worker.trace, at_origin.vllm
    try:
        with monkeypatch.context() as patch:
            patch.setattr(vllm_worker, "trace", lambda *a: wrong_layout(trace(*a), mutation))
            with pytest.raises(CanaryError, match=r"k_proj|down_proj"):
                open_and_verify(engine)
    finally:
        engine._open_weights()
    engine.verify_writes()


def test_equal_noise_for_equal_shapes_differs_from_the_reference(
    at_origin: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.noise import cpu
    from workers.noise.definition import tensor_key

    point = Point.from_coefficients([(LINE, 0.3)])
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "tensor_key", lambda seed, name: tensor_key(seed, ""))
        with pytest.raises(CanaryError, match="a write did not reach the weights"):
            at_origin.vllm.verify_writes()
        scalars = at_origin.apply_point(point)
    moving = [info.name for info in at_origin.checkpoint.tensors() if "norm" not in info.name]
    assert sorted(differing(at_origin.vllm, at_origin.checkpoint, point, scalars)) == moving


def test_canary_names_the_tensor_that_generation_does_not_read(at_origin: Pair) -> None:
    """The tensor is written and read back but never used, as in an engine that packs its weights."""
    weights: ResidentWeights = at_origin.vllm._llm.collective_rpc(lambda worker: worker._landscape_weights)[0]
    parameter = weights._layout["model.layers.0.mlp.down_proj.weight"][0].parameter
    memory = weights._memory[parameter]
    weights._memory[parameter] = memory.copy()
    try:
        with pytest.raises(CanaryError, match=r"model\.layers\.0\.mlp\.down_proj\.weight: no operation reads"):
            at_origin.vllm.verify_writes()
    finally:
        weights._memory[parameter] = memory


def test_canary_names_the_embedding_whose_tied_head_is_a_copy(at_origin: Pair) -> None:
    if not at_origin.checkpoint.config["tie_word_embeddings"]:
        pytest.skip("the head is not tied")
    import torch

    model = at_origin.vllm._llm.collective_rpc(lambda worker: worker.model_runner.get_model())[0]
    copy, linear = model.lm_head.weight.detach().clone(), model.lm_head.cpu_linear
    model.lm_head.cpu_linear = lambda x, weight, bias: torch.nn.functional.linear(x, copy, bias)
    try:
        with pytest.raises(CanaryError, match=r"model\.embed_tokens\.weight: it has 2 uses"):
            at_origin.vllm.verify_writes()
    finally:
        model.lm_head.cpu_linear = linear


def test_weights_in_bfloat16_equal_the_reference(make_tiny: Callable[..., Path]) -> None:
    folder = make_tiny("mistral", dtype="bfloat16", seed=3)
    checkpoint = MappedCheckpoint(folder)
    engine = open_engine(dataclasses.replace(SMALL, model_dir=str(folder), dtype="bfloat16"))
    try:
        engine.verify_writes()
        for point in [*WALK, ORIGIN]:
            scalars = {d.id: engine.measure(d) for d, _ in point.coefficients}
            engine.apply_point(point, scalars)
            assert differing(engine, checkpoint, point, scalars) == []
    finally:
        engine.close()


def test_towards_a_checkpoint_and_an_adapter(make_tiny: Callable[..., Path], tmp_path: Path) -> None:
    """Coefficient 1 gives the exact weights of the checkpoint, or the base plus the adapter, merged in float32.

    The origin gives the base again.
    """
    base, other = make_tiny("llama", dtype="bfloat16", seed=4), make_tiny("llama", dtype="bfloat16", seed=5)
    lora = adapter(base, tmp_path / "lora")
    merged = merge_in_float32(base, lora, tmp_path / "merged")
    targets = tuple(resolve_target(folder, read_checkpoint(base)) for folder in (other, lora))
    full, adapted = (TowardsDirection(target.fingerprint) for target in targets)
    engine = open_engine(dataclasses.replace(SMALL, model_dir=str(base), targets=targets))
    assert isinstance(engine, VllmEngine)
    checkpoint = MappedCheckpoint(base)
    try:
        engine.verify_writes()
        prompts = prompt_set(engine, Sampling(max_tokens=12))
        for direction, folder in ((full, other), (adapted, merged)):
            engine.apply_point(Point.from_coefficients([(direction, 1.0)]), {})
            target = MappedCheckpoint(folder)
            expected = {info.name: to_float32(target.base(info.name), info.dtype) for info in target.tensors()}
            assert [
                n
                for n in expected
                if not np.array_equal(read_tensor(engine, checkpoint, n).view(np.float32), expected[n])
            ] == []
            oracle = open_engine(dataclasses.replace(SMALL, kind="transformers", model_dir=str(folder)))
            assert isinstance(oracle, TransformersEngine)
            for ids, response in zip(prompts.token_ids, engine.generate([prompts])[0], strict=True):
                greedy_response, gap = greedy(oracle, ids, 12)
                assert response == greedy_response or gap < NEAR_TIE
            oracle.close()
        scalars = {LINE.id: engine.measure(LINE)}
        engine.apply_point(Point.from_coefficients([(full, 0.4), (adapted, -0.3), (LINE, 0.2)]), scalars)
        assert len(differing(engine, checkpoint, ORIGIN, {})) == len(checkpoint.tensors())
        engine.apply_point(ORIGIN, {})
        assert differing(engine, checkpoint, ORIGIN, {}) == []
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "lacks tensor model.norm.weight"),
        (lambda t: t.update({"model.norm.weight": t["model.norm.weight"][:8]}), "its tensor model.norm.weight is [8]"),
        (lambda t: t.update({"model.more.weight": t["model.norm.weight"]}), "tensor model.more.weight"),
    ],
)
def test_transformers_refuses_missing_misshapen_and_unknown_tensors(
    edit: Callable[[dict[str, np.ndarray]], object], message: str, tiny_llama: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError) as error:
        open_engine(dataclasses.replace(SMALL, kind="transformers", model_dir=str(folder)))
    assert error.value.field == "model.path" and message in str(error.value)


def merge_in_float32(base: Path, lora: Path, folder: Path) -> Path:
    """Copy a bfloat16 model with one file in float32, with the adapter added to its weights."""
    shutil.copytree(base, folder)
    factors, checkpoint = load_file(lora / "adapter_model.safetensors"), MappedCheckpoint(base)
    tensors = {}
    for info in checkpoint.tensors():
        weights = np.array(to_float32(checkpoint.base(info.name), info.dtype)).reshape(info.shape)
        module = f"base_model.model.{info.name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in factors:
            a, b = (factors[f"{module}.lora_{letter}.weight"] for letter in "AB")
            weights = materialize.lora_merged(weights, a, b, 2.0)
        tensors[info.name] = weights
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def adapter(base: Path, folder: Path) -> Path:
    """Write a plain LoRA adapter on every attention and MLP matrix, in PEFT's format."""
    rng = np.random.default_rng(6)
    factors: dict[str, np.ndarray] = {}
    for info in MappedCheckpoint(base).tensors():
        if "_proj" in info.name:
            module = f"base_model.model.{info.name.removesuffix('.weight')}"
            for letter, shape in (("A", (4, info.shape[1])), ("B", (info.shape[0], 4))):
                factors[f"{module}.lora_{letter}.weight"] = rng.standard_normal(shape).astype(np.float32) / 5
    folder.mkdir()
    save_file(factors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_a_target_of_another_shape_is_refused_before_the_load(make_tiny: Callable[..., Path], tiny_llama: Path) -> None:
    wide = Target("wide", "checkpoint", str(make_tiny("llama", intermediate_size=128)))
    for kind in ("vllm", "transformers"):
        spec = dataclasses.replace(SMALL, kind=kind, model_dir=str(tiny_llama), targets=(wide,))  # type: ignore[arg-type]
        with pytest.raises(UserError, match=r"^grid\.towards=.* is 64 x 128 and not 64 x 176"):
            open_engine(spec)


def test_weights_that_are_not_repacked_are_detected(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.engines import vllm_worker

    engine = open_engine(dataclasses.replace(SMALL, model_dir=str(tiny_llama), write="repack"))
    assert isinstance(engine, VllmEngine) and engine.identity["packing"] is True
    try:
        engine.verify_writes()
        monkeypatch.setattr(vllm_worker.Extension, "_landscape_repack", lambda self: None)
        with pytest.raises(CanaryError, match=r"model\.layers\.0\.\S+: \d+ elements .* packed layer differ"):
            engine.verify_writes()
    finally:
        engine.close()


def test_closing_an_engine_removes_its_host_copy(tiny_llama: Path) -> None:
    engine = open_engine(dataclasses.replace(SMALL, model_dir=str(tiny_llama), base="host"))
    copies = list(SHARED_MEMORY.glob(f"landscape-*/{sample_id(tiny_llama)}*"))
    assert len(copies) == 2, "there must be a folder and its lock"
    engine.close()
    assert not any(path.exists() for path in copies)


def test_packed_layers_hold_the_same_weights_as_their_parameters(pair: Pair) -> None:
    """Read back all weights of packed layers by multiplying with unit vectors, after each point."""
    if pair.vllm.identity["packing"] is False:
        pytest.skip("this engine packs nothing")
    for point in (*WALK, ORIGIN):
        pair.apply_point(point)
        worker = pair.vllm._llm.collective_rpc(lambda worker: list(worker._landscape_packed()))[0]
        assert len(worker) > 5
        for name, layer in worker:
            with torch.inference_mode():
                unpacked = layer.cpu_linear(torch.eye(layer.weight.shape[1]), layer.weight, None).T
            assert torch.equal(unpacked, layer.weight), name


@contextlib.contextmanager
def every_core() -> Iterator[None]:
    """Let numba use every core, and restore its and torch's numbers of threads afterwards."""
    before = numba.get_num_threads()
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    try:
        with one_thread():
            yield
    finally:
        numba.set_num_threads(before)


def test_an_engine_of_one_thread_writes_weights_with_one(tiny_llama: Path) -> None:
    with every_core():
        open_engine(dataclasses.replace(SMALL, kind="transformers", model_dir=str(tiny_llama), threads=1)).close()
        assert numba.get_num_threads() == 1


def test_the_worker_writes_weights_with_the_engines_number_of_threads(
    at_origin: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_origin.vllm, "spec", dataclasses.replace(at_origin.vllm.spec, threads=1))
    with every_core():
        at_origin.vllm._open_weights()
        assert numba.get_num_threads() == 1
