"""The one door to an engine: stand at a point, ask, hear. vLLM here; transformers in oracle.py; none in dummy.py."""

from __future__ import annotations

import abc
import gc
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.sweep.points import Point, RandomDirection
from orchestrator.sweep.tasks import PromptSet, Sampling
from orchestrator.utils.errors import UserError
from workers.noise.definition import DType
from workers.weights.base_placement import UTILISATION, Asked, Where, choose, host_free, host_missing, overhead, sweep
from workers.weights.checkpoint import HIDDEN, Checkpoint, TensorInfo, number, read_json
from workers.weights.targets import Target, open_ends, sample_id

if TYPE_CHECKING:  # the driver imports this file, and has neither torch nor numba
    import pyarrow as pa

    from workers.weights.resident import Piece

Write = Literal["auto", "inplace", "repack"]

GIB = 1 << 30
DEFAULT_KV_GIB = 1.0


class CanaryError(RuntimeError):
    """Writes do not reach the weights that generate; the message names the tensors."""


@dataclass(frozen=True)
class EngineSpec:
    """What an actor opens. None of it is in a study's id; what changes outputs is in the engine's identity.

    max_model_len, max_num_batched_tokens: tokens. kv_cache_gib: None lets the engine choose (1 GiB on a CPU).
    write: on a CPU, whether the weights that are written are those that are multiplied with (`inplace`), or are packed
    anew after each write (`repack`: see `resolved_write`).
    exact: each prompt set in a call of its own. seconds: what a visit of the dummy takes.
    threads: None takes every core this process may use. targets: what the sweep's directions go towards.
    base: where the pristine weights wait between writes (see workers/weights/base_placement.py).
    gpu_share: how much of a GPU's memory is this engine's, where several actors share it.
    """

    kind: Literal["vllm", "transformers", "dummy"] = "vllm"
    model_dir: str = ""
    dtype: DType = "float32"
    max_model_len: int = 2048
    max_num_seqs: int = 128
    max_num_batched_tokens: int = 4096
    kv_cache_gib: float | None = None
    tensor_parallel: int = 1
    eager: bool = True
    write: Write = "auto"
    exact: bool = False
    seconds: float = 0.0
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int | None = None
    targets: tuple[Target, ...] = ()
    base: Asked = "auto"
    gpu_share: float = 1.0


@dataclass(frozen=True)
class Generation:
    """One response. finish_reason: `stop` (end of sequence, or a stop string, which the response then ends in) or
    `length`. scores: log-probability of each answer letter as the first token, in the sampling's order."""

    response: str
    finish_reason: str
    n_tokens: int
    n_prompt_tokens: int
    scores: list[float] | None = None


class Engine(abc.ABC):
    """One resident model. Not thread-safe; one visit at a time."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec

    @property
    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What fixes the outputs besides the weights, as JSON."""

    @abc.abstractmethod
    def tensors(self) -> list[TensorInfo]:
        """The checkpoint's tensors, tied ones once, sorted by name."""

    @abc.abstractmethod
    def measure(self, direction: RandomDirection) -> pa.Table:
        """The scalars of a direction on this checkpoint (see workers/weights/perturbation.py)."""

    @abc.abstractmethod
    def write(self, point: Point, scalars: Mapping[str, pa.Table]) -> None:
        """Stand at the point, from the pristine base; `scalars` by direction id. Forgets cached prefixes."""

    @abc.abstractmethod
    def read(self, name: str, rank: int = 0) -> list[Piece]:
        """What a rank holds of a checkpoint tensor."""

    @abc.abstractmethod
    def canary(self) -> None:
        """Prove that writes reach every tensor and that generation uses them; leaves the base, to the bit.

        Raises CanaryError, naming tensors.
        """

    @abc.abstractmethod
    def _generate(self, prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
        """All the prompt sets in one batch."""

    def generate(self, prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
        """Greedy responses, in the order of the prompts, for each prompt set.

        Raises UserError where a prompt with its response does not fit into max_model_len.
        """
        for prompts in prompt_sets:
            longest = max(map(len, prompts.token_ids), default=0) + prompts.sampling.max_tokens
            if longest > self.spec.max_model_len:
                remedy = f"a prompt and its response may take {longest} tokens: raise it, or lower sampling.max_tokens"
                raise UserError("model.max_model_len", self.spec.max_model_len, remedy)
        if self.spec.exact:
            return [self._generate([prompts])[0] for prompts in prompt_sets]
        return self._generate(prompt_sets)

    def close(self) -> None:  # noqa: B027 - an engine may hold nothing
        """Give back what the engine holds."""


def open_engine(spec: EngineSpec) -> Engine:
    """Load the model. Raises UserError for what cannot be loaded or written exactly, before the load."""
    if spec.kind == "dummy":
        from workers.engines.dummy import DummyEngine

        return DummyEngine(spec)
    check_supported(read_json(Path(spec.model_dir) / "config.json"), spec.model_dir)
    if spec.kind == "transformers":
        from workers.engines.hf import TransformersEngine

        return TransformersEngine(spec)
    return VllmEngine(spec)


def check_supported(config: Mapping[str, Any], path: object = "") -> None:
    """Refuse, from config.json alone, what cannot be written exactly. Raises UserError (model.path)."""
    text = {**config, **(config.get("text_config") or {})}
    for key in ("quantization_config", "compression_config"):
        if text.get(key):
            method = text[key].get("quant_method", "an unknown method") if isinstance(text[key], Mapping) else text[key]
            remedy = f"the weights are quantised ({method}) and cannot be perturbed exactly: use the unquantised model"
            raise UserError("model.path", path, remedy)
    if text.get("kv_lora_rank"):
        remedy = "multi-head latent attention keeps products of its weights, which cannot be written exactly"
        raise UserError("model.path", path, remedy)
    recurrent = ("ssm_cfg", "mamba_d_state", "mamba_n_heads", "mamba_num_heads", "ssm_state_size", "state_size")
    if any(text.get(key) for key in recurrent):
        remedy = "state-space layers keep transformed copies of their weights, which cannot be written exactly"
        raise UserError("model.path", path, remedy)
    if text.get("is_encoder_decoder"):
        raise UserError("model.path", path, "encoder-decoder models are not supported: use a causal language model")


class VllmEngine(Engine):
    """vLLM in this process (its workers in processes of their own under tensor parallelism)."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._checkpoint = Checkpoint(spec.model_dir)
        open_ends(spec.targets, self._checkpoint)  # what doesn't fit is refused before the load
        self._sample = sample_id(Path(spec.model_dir).absolute())
        self._base = self._residency()
        os.environ.update(_environment(spec))
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)

        import torch

        torch.set_num_threads(threads(spec))  # Ray sets OMP_NUM_THREADS; vLLM forbids it after the load

        _guard_llvmlite()
        limit_kernels(threads(spec))

        import vllm

        kv = spec.kv_cache_gib if spec.kv_cache_gib is not None or spec.device == "cuda" else DEFAULT_KV_GIB
        self._llm = vllm.LLM(
            model=spec.model_dir,
            dtype=spec.dtype,
            seed=0,
            max_model_len=spec.max_model_len,
            max_num_seqs=spec.max_num_seqs,
            max_num_batched_tokens=max(spec.max_num_batched_tokens, spec.max_num_seqs),
            kv_cache_memory_bytes=None if kv is None else math.ceil(kv * GIB),
            gpu_memory_utilization=self._utilisation(),
            tensor_parallel_size=spec.tensor_parallel,
            distributed_executor_backend="mp" if spec.tensor_parallel > 1 else "uni",
            enforce_eager=spec.eager,
            enable_prefix_caching=True,
            trust_remote_code=False,
            load_format="safetensors",
            use_tqdm_on_load=False,
            disable_log_stats=True,
            worker_extension_cls="workers.engines.vllm_worker.Extension",
            **({"limit_mm_per_prompt": {"image": 0}} if "vision_config" in self._checkpoint.config else {}),
        )
        self._tokenizer = self._llm.get_tokenizer()
        self._take_hold()

    @property
    def identity(self) -> dict[str, Any]:
        import vllm

        spec, config = self.spec, self._llm.llm_engine.vllm_config
        return {
            "engine": "vllm",
            "version": vllm.__version__,
            "device": device_name(spec.device),
            "dtype": spec.dtype,
            "tensor_parallel": spec.tensor_parallel,
            "eager": spec.eager,
            "packing": resolved_write(spec) == "repack",
            "max_model_len": spec.max_model_len,
            "max_num_seqs": spec.max_num_seqs,
            "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
            "kv_blocks": config.cache_config.num_gpu_blocks,
            "kv_block_size": config.cache_config.block_size,
        }

    def tensors(self) -> list[TensorInfo]:
        return self._checkpoint.tensors()

    def measure(self, direction: RandomDirection) -> pa.Table:
        return measure(self._checkpoint, direction)

    def write(self, point: Point, scalars: Mapping[str, pa.Table]) -> None:
        self._rpc("landscape_write", point, dict(scalars))
        self._forget()

    def read(self, name: str, rank: int = 0) -> list[Piece]:
        pieces: list[Piece] = self._rpc("landscape_read", name)[rank]
        return pieces

    def canary(self) -> None:
        self._refuse_wrong("landscape_wrong", "base", story="the engine does not hold the checkpoint's weights")
        if self.spec.eager:  # compiled graphs hide their operations
            self._rpc("landscape_watch")
        before = self._pulse()
        if self.spec.eager:
            self._refuse_wrong("landscape_unread", story="generation does not use the weights that are written")
        self._rpc("landscape_canary")
        self._forget()
        self._refuse_wrong("landscape_wrong", "canary", story="a write did not reach the weights")
        moved = self._pulse()
        self._rpc("landscape_origin")
        self._forget()
        self._refuse_wrong("landscape_wrong", "base", story="the way back to the origin is not exact")
        if moved == before:
            raise CanaryError("every tensor was written, and the model's answer did not change")
        if self._pulse() != before:
            raise CanaryError("back at the origin the model's answer is not what it was")

    def close(self) -> None:
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._rpc("landscape_close")
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        cleanup_dist_env_and_memory()

    def _generate(self, prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
        from vllm import TokensPrompt

        self._forget()  # what was asked before must not change how this batch is cut
        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=list(ids)) for prompts in prompt_sets for ids in prompts.token_ids],
            [self._parameters(prompts.sampling) for prompts in prompt_sets for _ in prompts.token_ids],
            use_tqdm=False,
        )
        answers: Iterator[Any] = iter(outputs)
        return [[self._heard(next(answers), prompts.sampling) for _ in prompts.token_ids] for prompts in prompt_sets]

    def _parameters(self, sampling: Sampling) -> Any:
        from vllm import SamplingParams

        letters = [i for ids in letter_tokens(self._tokenizer, sampling.letters) for i in ids]
        return SamplingParams(
            temperature=0.0,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop),
            include_stop_str_in_output=True,
            logprob_token_ids=letters or None,
        )

    def _heard(self, request: Any, sampling: Sampling) -> Generation:
        answer, scores = request.outputs[0], None
        if sampling.letters:
            first = answer.logprobs[0]
            scores = [
                log_sum(first[i].logprob for i in ids) for ids in letter_tokens(self._tokenizer, sampling.letters)
            ]
        return Generation(
            response=answer.text,
            finish_reason=str(answer.finish_reason),
            n_tokens=len(answer.token_ids),
            n_prompt_tokens=len(request.prompt_token_ids),
            scores=scores,
        )

    def _residency(self) -> Where:
        """Where the base goes on this machine. Raises UserError (engine.base)."""
        total = 0
        if self.spec.device == "cuda":
            import torch

            total = int(torch.cuda.get_device_properties(0).total_memory * self.spec.gpu_share)
        kv = None if self.spec.kv_cache_gib is None else math.ceil(self.spec.kv_cache_gib * GIB)
        sweep(keep=self._sample)  # before what is free is measured
        elements = sum(info.size for info in self._checkpoint.tensors())
        item = 4 if self.spec.dtype == "float32" else 2
        config = self._checkpoint.config
        return choose(
            self.spec.base,
            self.spec.device,
            weights=elements * item // self.spec.tensor_parallel,
            base=self._checkpoint.bytes // self.spec.tensor_parallel,
            copy=host_missing(self._checkpoint, self._sample),
            gpu_total=total,
            besides=overhead(
                number(config, *HIDDEN) or 0,
                number(config, "vocab_size") or 0,
                item,
                self.spec.max_num_batched_tokens,
                self.spec.max_num_seqs,
            ),
            kv=kv,
            host_free=host_free(),
        )

    def _utilisation(self) -> float:
        """The share of a GPU's memory that vLLM may take: a second copy of the weights is to lie beside it."""
        share = UTILISATION * self.spec.gpu_share
        if self._base != "gpu":
            return share
        import torch

        base = self._checkpoint.bytes / self.spec.tensor_parallel
        return share - base / torch.cuda.get_device_properties(0).total_memory

    def _take_hold(self) -> None:
        """Trace the layout on every rank; between them they must hold every element of every tensor."""
        from workers.weights.layout import LayoutError, uncovered

        try:
            folder = str(Path(self.spec.model_dir).absolute())
            each = threads(self.spec) // self.spec.tensor_parallel
            ranks = self._rpc(
                "landscape_open", folder, self.spec.dtype, self.spec.targets, self._base, self._sample, each
            )
        except LayoutError as error:
            raise CanaryError(str(error)) from error
        for info in self._checkpoint.tensors():
            missing = uncovered(info.size, (region.slab for rank in ranks for region in rank.get(info.name, ())))
            if missing:
                raise CanaryError(
                    f"{missing} of {info.size} elements of {info.name} are nowhere in the engine's memory"
                )

    def _pulse(self) -> list[tuple[int, float]]:
        """The first greedy token of two short prompts and its log-probability: a forward pass in two numbers each."""
        from vllm import SamplingParams, TokensPrompt

        vocabulary = int(self._llm.llm_engine.model_config.get_vocab_size())
        prompts = [[vocabulary // 3, vocabulary // 2, vocabulary // 5], [vocabulary // 7, vocabulary // 4]]
        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids in prompts],
            SamplingParams(temperature=0.0, max_tokens=1, logprobs=0, detokenize=False),
            use_tqdm=False,
        )
        self._forget()
        return [(token, entry.logprob) for o in outputs for token, entry in (o.outputs[0].logprobs or [{}])[0].items()]

    def _refuse_wrong(self, method: str, *args: Any, story: str) -> None:
        refuse({name: why for rank in self._rpc(method, *args) for name, why in rank.items()}, story)

    def _forget(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM refused to reset its prefix cache")

    def _rpc(self, method: str, *args: Any) -> list[Any]:
        answers: list[Any] = self._llm.collective_rpc(method, args=args)
        return answers


def refuse(wrong: Mapping[str, str], story: str) -> None:
    """Raises CanaryError where any tensor is wrong, naming the first."""
    if wrong:
        shown = "; ".join(f"{name}: {why}" for name, why in sorted(wrong.items())[:3])
        raise CanaryError(f"{story}: {shown} ({len(wrong)} tensors)")


_QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "TQDM_DISABLE": "1",
}


def _environment(spec: EngineSpec) -> dict[str, str]:
    """What vLLM reads from the environment, and not from its arguments."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    cores = cores[: threads(spec)]
    shares = [cores[rank :: spec.tensor_parallel] or [cores[-1]] for rank in range(spec.tensor_parallel)]
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # our own methods' arguments, between our own processes
        "VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(map(str, share)) for share in shares),
        "SAFETY_LANDSCAPE_WRITE": resolved_write(spec),
    }


def _guard_llvmlite() -> None:
    """vLLM 0.32 looks for `kernel` in the `__dict__` of every object of every module, and numba's llvmlite wraps a
    library in an object that has an answer to any name: without this the engine does not start beside numba."""
    from llvmlite.binding import ffi

    wrapper = type(ffi.lib)
    answer = wrapper.__getattr__
    if getattr(answer, "guarded", False):
        return

    def guarded(self: Any, name: str) -> Any:
        if name == "__dict__":
            raise AttributeError(name)
        return answer(self, name)

    guarded.guarded = True  # type: ignore[attr-defined]
    wrapper.__getattr__ = guarded


def resolved_write(spec: EngineSpec) -> Literal["inplace", "repack"]:
    """How weights reach the products. Packing takes a copy of the linear weights, and a pass over them at
    each write, and makes generation faster (benchmarks/RESULTS.md): worth it in float32 on a CPU. In 16 bits vLLM's
    packing changes biases too; on a GPU nothing is packed."""
    if spec.write != "auto":
        return spec.write
    return "repack" if spec.device == "cpu" and spec.dtype == "float32" else "inplace"


def threads(spec: EngineSpec) -> int:
    """How many threads the engine may use: never more than this process has cores."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(spec.threads or available, available))


def limit_kernels(n: int) -> None:
    """The kernels that move weights on a CPU use at most n threads, when called from this one: numba keeps the number
    by thread, and takes every core unless told."""
    import numba

    numba.set_num_threads(max(1, min(n, numba.config.NUMBA_NUM_THREADS)))


def device_name(kind: str) -> str:
    """The kind of device: arithmetic differs between instruction sets and between GPUs."""
    import torch

    if kind == "cuda":
        return str(torch.cuda.get_device_name())
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"


def measure(checkpoint: Checkpoint, direction: RandomDirection) -> pa.Table:
    """The scalars of a direction on a checkpoint (see workers/weights/perturbation.py)."""
    from workers.weights import perturbation as directions

    return directions.measure(
        direction, ((t.name, checkpoint.base(t.name), t.shape, t.dtype) for t in checkpoint.tensors())
    )


def letter_tokens(tokenizer: Any, letters: Sequence[str]) -> list[list[int]]:
    """The tokens that say each letter, bare and after a space. Raises ValueError for one that no single token says."""
    found = []
    for letter in letters:
        spelt = [tokenizer.encode(text, add_special_tokens=False) for text in (letter, f" {letter}")]
        ids = sorted({ids[0] for ids in spelt if len(ids) == 1})
        if not ids:
            raise ValueError(f"no single token says {letter!r}: this model's answers cannot be scored by letter")
        found.append(ids)
    return found


def log_sum(values: Iterator[float] | Sequence[float]) -> float:
    """log(sum(exp(v))), without overflow."""
    listed = list(values)
    top = max(listed)
    return top if math.isinf(top) else top + math.log(sum(math.exp(v - top) for v in listed))


def terminators(folder: str, tokenizer_eos: int | None) -> set[int]:
    """Tokens that end a response, as vLLM has it: the tokenizer's, and those of generation_config.json."""
    ids = set() if tokenizer_eos is None else {tokenizer_eos}
    file = Path(folder) / "generation_config.json"
    listed = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.exists() else None
    return ids | set(listed if isinstance(listed, list) else [] if listed is None else [listed])
