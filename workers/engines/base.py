"""Engine interface: apply a point to the resident weights, generate responses.

The implementations are in `vllm.py`, `hf.py` (transformers) and `dummy.py`; `factory.open_engine` chooses one. The
driver imports this module, so it must not import torch, numba or an engine's library.
"""

from __future__ import annotations

import abc
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.sweep.continuations import SCORED_TOKENS, Continuation, LogProbability
from orchestrator.sweep.directions import Direction
from orchestrator.sweep.points import Point
from orchestrator.sweep.tasks import PromptSet, Sampling
from orchestrator.utils.choices import BaseChoice, EngineKind, WriteChoice
from orchestrator.utils.errors import UserError
from workers.engines.gpu_settings import VisitSize
from workers.noise.definition import DType
from workers.weights.checkpoint import MappedCheckpoint, TensorInfo, read_json
from workers.weights.targets import Target, open_endpoint

if TYPE_CHECKING:
    import pyarrow as pa

    from workers.weights.resident import Piece


TokenSequence = tuple[Sequence[int], Sequence[int]]
"""The token ids of a prompt, and those of a text after it."""


class CanaryError(RuntimeError):
    """Writes do not reach the weights that generation uses. The message names the tensors."""


@dataclass(frozen=True)
class EngineSpec:
    """Configuration of an actor's engine.

    None of it is part of a study's id. The settings that change outputs are part of the engine's identity
    (`Engine.identity`).

    Attributes:
        kind: Engine to open.
        model_dir: Folder of the model's checkpoint.
        dtype: Dtype of the weights in the engine.
        max_model_len: Maximum number of tokens of a prompt and its response together.
        max_num_seqs: Maximum number of sequences in one batch. None: computed on a GPU (`gpu_settings`), 128 on a CPU.
        max_num_batched_tokens: Maximum number of tokens in one step of the scheduler. None: computed on a GPU, 4,096 on
            a CPU.
        kv_cache_gib: Size of the KV cache in GiB. None: computed on a GPU, 1 GiB on a CPU.
        block_size: Number of tokens in a block of the KV cache. None: 32 on a CPU; on a GPU the attention backend
            chooses.
        tensor_parallel: Number of ranks that share the model.
        eager: Run without CUDA graphs and compilation. None: True on a CPU, False on a GPU.
        write: How the linear layers of vLLM on a CPU use written weights: `inplace` multiplies with them directly,
            `repack` packs them again after each write, `auto` is resolved by `resolved_write`.
        exact: Generate each prompt set in a batch of its own.
        seconds: Duration of a visit of the dummy engine in seconds.
        device: Device that holds the weights.
        threads: Number of CPU threads. None uses every core that this process may use.
        targets: Checkpoints and adapters toward which the sweep's directions lead.
        base: Where to keep the unperturbed weights between writes (see workers/weights/base_placement.py).
        gpu_share: Fraction of a GPU's memory for this engine, if several actors share the GPU.
        visit: Size of the largest visit, for which settings of a GPU are computed. None: unknown.
    """

    kind: EngineKind = EngineKind.vllm
    model_dir: str = ""
    dtype: DType = "float32"
    max_model_len: int = 2048
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_gib: float | None = None
    block_size: int | None = None
    tensor_parallel: int = 1
    eager: bool | None = None
    write: WriteChoice = WriteChoice.auto
    exact: bool = False
    seconds: float = 0.0
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int | None = None
    targets: tuple[Target, ...] = ()
    base: BaseChoice = BaseChoice.auto
    gpu_share: float = 1.0
    visit: VisitSize | None = None


@dataclass(frozen=True)
class Generation:
    """One response.

    Attributes:
        response: The text. If a stop string ended it, the text ends with that string. If the logits were not finite,
            the text before that: empty in most cases.
        finish_reason: `stop` (end of sequence or a stop string), `length`, or NONFINITE: the largest logit was NaN or
            infinite (or all were minus infinity), so that there is no next token.
        n_tokens: Number of generated tokens.
        n_prompt_tokens: Number of tokens of the prompt.
        scores: Log-probability of each answer letter as the first token, in the order of the sampling's letters. None
            if the sampling has no letters.
    """

    response: str
    finish_reason: str
    n_tokens: int
    n_prompt_tokens: int
    scores: list[float] | None = None


class Engine(abc.ABC):
    """Interface to one loaded model. Not thread-safe: it runs one visit at a time."""

    _tokenizer: Any  # the model's, from transformers; the dummy engine has none

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec

    @property
    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON object of everything except the weights that determines the outputs."""

    @abc.abstractmethod
    def tensors(self) -> list[TensorInfo]:
        """Return the checkpoint's tensors sorted by name; tied tensors appear once."""

    @abc.abstractmethod
    def measure(self, direction: Direction) -> pa.Table:
        """Return the scalars of a direction, its scaling factors on this model: a table of `perturbation.schema`."""

    @abc.abstractmethod
    def apply_point(self, point: Point, scalars: Mapping[str, pa.Table]) -> None:
        """Write the weights of a point, computed from the unperturbed base, and drop cached prefixes.

        Args:
            point: The point to apply.
            scalars: Direction id -> scalars of each direction of the point that needs them.
        """

    @abc.abstractmethod
    def read(self, name: str, rank: int = 0) -> list[Piece]:
        """Return copies of the parts of a checkpoint tensor that a rank holds.

        Args:
            name: Name of the tensor in the checkpoint.
            rank: Tensor-parallel rank, from 0.
        """

    @abc.abstractmethod
    def verify_writes(self) -> None:
        """Check that writes reach every tensor and that generation uses them, then restore the base bit for bit.

        Raises:
            CanaryError: A write has no effect, or an unexpected one. The message names the tensors.
        """

    @abc.abstractmethod
    def _generate(self, prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
        """Generate responses for all the prompt sets in one batch."""

    def generate(self, prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
        """Generate greedy responses to the prompts of each prompt set.

        Returns:
            One list per prompt set, with one response per prompt, in their order.

        Raises:
            UserError: A prompt with its response does not fit into model.max_model_len.
        """
        for prompts in prompt_sets:
            longest = max(map(len, prompts.token_ids), default=0) + prompts.sampling.max_tokens
            if longest > self.spec.max_model_len:
                remedy = f"a prompt and its response may take {longest} tokens: raise it, or lower sampling.max_tokens"
                raise UserError("model.max_model_len", self.spec.max_model_len, remedy)
        if self.spec.exact:
            return [self._generate([prompts])[0] for prompts in prompt_sets]
        return self._generate(prompt_sets)

    def _encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    @abc.abstractmethod
    def _token_log_probabilities(self, sequences: Sequence[TokenSequence]) -> list[list[float]]:
        """Return the log-probability of each token of each text. No prompt and no text is empty."""

    def log_probabilities(self, continuations: Sequence[Continuation]) -> list[LogProbability]:
        """Return the mean log-probability of the first tokens of each text, given its prompt and the current weights.

        A text is tokenized on its own, without special tokens, and its tokens are put after those of the prompt. At
        most SCORED_TOKENS of them count, fewer if prompt and text would not fit into model.max_model_len. Nothing is
        generated: the tokens are read in one pass.
        """
        sequences: list[TokenSequence] = []
        for continuation in continuations:
            room = self.spec.max_model_len - len(continuation.token_ids) - 1  # vLLM always generates one token
            limit = min(SCORED_TOKENS, room) if continuation.token_ids else 0
            sequences.append((continuation.token_ids, self._encode(continuation.text)[: max(0, limit)]))
        measured = iter(self._token_log_probabilities([pair for pair in sequences if pair[1]]))
        return [_mean(next(measured)) if tokens else LogProbability(None, 0) for _, tokens in sequences]

    def close(self) -> None:  # noqa: B027 - some engines hold nothing
        """Release the engine's resources."""


def _mean(values: Sequence[float]) -> LogProbability:
    """Return the mean of the log-probabilities of a text's tokens, of which there is at least one."""
    mean = math.fsum(values) / len(values) if all(map(math.isfinite, values)) else None
    return LogProbability(mean, len(values))


def raise_if_wrong(wrong: Mapping[str, str], problem: str) -> None:
    """Raise CanaryError if any tensor is wrong.

    Args:
        wrong: Tensor -> description of its fault. The message shows the first three, sorted by name.
        problem: Description of the failed check, the start of the message.
    """
    if wrong:
        shown = "; ".join(f"{name}: {why}" for name, why in sorted(wrong.items())[:3])
        raise CanaryError(f"{problem}: {shown} ({len(wrong)} tensors)")


def resolved_write(spec: EngineSpec) -> WriteChoice:
    """Return the write mode of the linear layers, with `auto` resolved.

    Packing needs memory for a copy of the linear weights and a pass over them at each write, and makes generation
    faster (benchmarks/RESULTS.md). `auto` packs only in float32 on a CPU. In 16 bits vLLM's packing changes biases too;
    on a GPU nothing is packed.
    """
    if spec.write != WriteChoice.auto:
        return spec.write
    packs = spec.device == "cpu" and spec.dtype == "float32"
    return WriteChoice.repack if packs else WriteChoice.inplace


def thread_count(spec: EngineSpec) -> int:
    """Return the number of threads the engine may use, at most the number of cores of this process."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(spec.threads or available, available))


def device_name(kind: str) -> str:
    """Return the GPU's name, or `cpu` with its instruction set: floating-point results differ between these.

    Args:
        kind: `cuda` or `cpu`.
    """
    import torch

    if kind == "cuda":
        return str(torch.cuda.get_device_name())
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"


def measure_scalars(checkpoint: MappedCheckpoint, direction: Direction, targets: Sequence[Target] = ()) -> pa.Table:
    """Return the scalars of a direction, its scaling factors on a checkpoint: a table of `perturbation.schema`.

    Args:
        checkpoint: The unperturbed base.
        direction: The direction.
        targets: Checkpoints and adapters, among them the direction's reference if it has one.
    """
    from workers.weights import perturbation, references

    tensors = ((t.name, checkpoint.base(t.name), t.shape, t.dtype) for t in checkpoint.tensors())
    if direction.reference is None:
        return perturbation.measure(direction, tensors)
    (target,) = (target for target in targets if target.fingerprint == direction.reference)
    displacement = references.displacement_of(open_endpoint(target, checkpoint), checkpoint)
    return perturbation.measure(direction, tensors, displacement)


def letter_tokens(tokenizer: Any, sampling: Sampling) -> list[list[int]]:
    """Return, for each letter, the ids of the tokens whose probabilities add up to its own.

    They are the sampling's `letter_tokens`, or else the tokens that spell a letter with and without a leading space.

    Raises:
        ValueError: No single token spells one of the letters.
    """
    if sampling.letter_tokens:
        return [[token] for token in sampling.letter_tokens]
    tokens = []
    for letter in sampling.letters:
        encodings = [tokenizer.encode(text, add_special_tokens=False) for text in (letter, f" {letter}")]
        ids = sorted({encoding[0] for encoding in encodings if len(encoding) == 1})
        if not ids:
            raise ValueError(f"no single token spells {letter!r}: this model's answers cannot be scored by letter")
        tokens.append(ids)
    return tokens


def log_sum(values: Iterable[float]) -> float:
    """Return log(sum(exp(v))) without overflow; NaN if a value is NaN."""
    values = list(values)
    if any(math.isnan(value) for value in values):
        return math.nan
    top = max(values)
    return top if math.isinf(top) else top + math.log(sum(math.exp(v - top) for v in values))


def terminators(folder: str, tokenizer_eos: int | None) -> set[int]:
    """Return the ids of the tokens that end a response: the tokenizer's and those of generation_config.json.

    vLLM uses the same rule.

    Args:
        folder: The model's folder; generation_config.json may be missing.
        tokenizer_eos: The tokenizer's end-of-sequence token. None if it has none.
    """
    ids = set() if tokenizer_eos is None else {tokenizer_eos}
    file = Path(folder) / "generation_config.json"
    if not file.exists():
        return ids
    configured = read_json(file).get("eos_token_id")
    if configured is None:
        return ids
    return ids | set(configured if isinstance(configured, list) else [configured])
