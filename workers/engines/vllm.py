"""Engine that generates with vLLM. The methods that access the weights run in its workers (`vllm_worker.Extension`)."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from orchestrator.store.engine_identity import SCHEMA as IDENTITY_SCHEMA
from orchestrator.sweep.directions import Direction
from orchestrator.sweep.points import Point
from orchestrator.sweep.tasks import NONFINITE, PromptSet, Sampling
from orchestrator.utils.private import runtime_folder
from workers.engines import patches
from workers.engines.base import (
    CanaryError,
    Engine,
    EngineSpec,
    Generation,
    TokenSequence,
    device_name,
    letter_tokens,
    log_sum,
    measure_scalars,
    raise_if_wrong,
    resolved_write,
    thread_count,
)
from workers.engines.decoding import ResponseText
from workers.engines.switches import switches_set
from workers.engines.vllm_nonfinite import UndefinedChoices
from workers.engines.vllm_settings import (
    engine_options,
    graph_batches,
    name_unsupported_experts,
    resolve_settings,
)
from workers.noise.cpu import limit_threads
from workers.weights.base_placement import remove_stale_copies
from workers.weights.checkpoint import MappedCheckpoint, TensorInfo
from workers.weights.layout import LayoutError, uncovered
from workers.weights.resident import Piece
from workers.weights.targets import open_endpoints, sample_id

_QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "TQDM_DISABLE": "1",
}
# The ranks of an engine are on one machine, so their sockets need not be open to others. NCCL takes a name for the
# beginning of one, unless it follows "=".
_ON_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "=lo"}


class VllmEngine(Engine):
    """Engine with vLLM in this process. With tensor parallelism vLLM's workers run in processes of their own."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._switches = switches_set("vllm")
        self._checkpoint = MappedCheckpoint(spec.model_dir)
        open_endpoints(spec.targets, self._checkpoint)  # raises UserError before the load if a target does not fit
        self._sample = sample_id(Path(spec.model_dir).absolute())
        remove_stale_copies(keep=self._sample)  # before free memory is measured
        self.spec, self._base = resolve_settings(spec, self._checkpoint, self._sample)
        spec = self.spec
        set_environment(spec)
        torch.set_num_threads(thread_count(spec))  # overrides Ray's OMP_NUM_THREADS; too late after the load
        limit_threads(thread_count(spec))
        patches.hide_llvmlite_dict()
        self._llm = self._load()
        self._tokenizer = self._llm.get_tokenizer()
        self._undefined = UndefinedChoices(self._llm.llm_engine)
        self._sent_scalars: set[str] = set()
        self._open_weights()

    def _load(self) -> Any:
        import vllm  # after the environment is set

        patches.zero_new_cache_blocks()  # the scheduler in this process must know too
        with name_unsupported_experts(self.spec.model_dir):
            return vllm.LLM(**engine_options(self.spec, self._checkpoint, self._base))

    @property
    def identity(self) -> dict[str, Any]:
        """Version, device and every setting that changes how a batch is divided or how results are rounded."""
        import vllm
        from vllm import envs

        spec, config = self.spec, self._llm.llm_engine.vllm_config
        compilation = config.compilation_config
        return {
            "schema": IDENTITY_SCHEMA,
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
            "kv_block_size": config.cache_config.block_size,
            "compilation_mode": compilation.mode.name,
            "cudagraph_mode": compilation.cudagraph_mode.name,
            **graph_batches(spec),
            "batch_invariant": bool(envs.VLLM_BATCH_INVARIANT),
            **self._rpc("landscape_arithmetic")[0],
            "environment": self._switches,
        }

    def tensors(self) -> list[TensorInfo]:
        """Return the checkpoint's tensors sorted by name; tied tensors appear once."""
        return self._checkpoint.tensors()

    def measure(self, direction: Direction) -> pa.Table:
        """Return the scalars of a direction, its scaling factors on this model: a table of `perturbation.schema`."""
        return measure_scalars(self._checkpoint, direction, self.spec.targets)

    def apply_point(self, point: Point, scalars: Mapping[str, pa.Table]) -> None:
        """Write the weights of a point on every rank and drop cached prefixes."""
        new = {direction.id for direction, _ in point.coefficients if direction.needs_scalars} - self._sent_scalars
        self._rpc("landscape_apply_point", point, {direction: scalars[direction] for direction in new})
        self._sent_scalars |= new  # the ranks keep them
        self._reset_prefix_cache()

    def read(self, name: str, rank: int = 0) -> list[Piece]:
        """Return copies of the parts of a checkpoint tensor that a rank holds."""
        pieces: list[Piece] = self._rpc("landscape_read", name)[rank]
        return pieces

    def verify_writes(self) -> None:
        """Run the canary check of docs/weights.md, then restore the base bit for bit.

        Raises:
            CanaryError: A write has no effect, or an unexpected one.
        """
        self._raise_if_wrong(
            "landscape_differences", "base", problem="the engine does not hold the checkpoint's weights"
        )
        self._rpc("landscape_watch_reads")
        self._probe()
        self._raise_if_wrong("landscape_unread", problem="generation does not use the weights that are written")
        before = self._probe()
        self._rpc("landscape_apply_canary")
        self._reset_prefix_cache()
        self._raise_if_wrong("landscape_differences", "canary", problem="a write did not reach the weights")
        moved = self._probe()
        self._rpc("landscape_restore")
        self._reset_prefix_cache()
        self._raise_if_wrong("landscape_differences", "base", problem="the way back to the origin is not exact")
        if moved == before:
            raise CanaryError("every tensor was written, and the model's output did not change")
        if self._probe() != before:
            raise CanaryError("back at the origin, the model's output differs from what it was before")

    def close(self) -> None:
        """Shut the engine down and release shared memory."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._rpc("landscape_close")
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        cleanup_dist_env_and_memory()

    def _generate(self, prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
        from vllm import TokensPrompt

        self._reset_prefix_cache()  # earlier prompts must not change how this batch is divided
        self._undefined.positions.clear()
        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=list(ids)) for prompts in prompt_sets for ids in prompts.token_ids],
            [self._sampling_params(prompts.sampling) for prompts in prompt_sets for _ in prompts.token_ids],
            use_tqdm=False,
        )
        results: Iterator[Any] = iter(outputs)
        return [
            [self._generation(next(results), prompts.sampling) for _ in prompts.token_ids] for prompts in prompt_sets
        ]

    def _token_log_probabilities(self, sequences: Sequence[TokenSequence]) -> list[list[float]]:
        return _read(self._llm, sequences)

    def _sampling_params(self, sampling: Sampling) -> Any:
        from vllm import SamplingParams

        letters = [i for ids in letter_tokens(self._tokenizer, sampling) for i in ids]
        return SamplingParams(
            temperature=0.0,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop),
            include_stop_str_in_output=True,
            logprob_token_ids=letters or None,
        )

    def _generation(self, output: Any, sampling: Sampling) -> Generation:
        completion, scores = output.outputs[0], None
        if sampling.letters:
            first = completion.logprobs[0]
            tokens = letter_tokens(self._tokenizer, sampling)
            scores = [log_sum(first[i].logprob for i in ids) for ids in tokens]
        text, reason, tokens = completion.text, str(completion.finish_reason), completion.token_ids
        undefined = self._undefined.positions.get(output.request_id)
        if undefined is not None:
            tokens, reason = tokens[:undefined], NONFINITE
        if undefined is not None or sampling.kept:  # vLLM leaves out all special tokens, or none
            decoded = ResponseText(self._tokenizer, output.prompt_token_ids, sampling.kept)
            text = "".join(map(decoded.add, tokens))
        return Generation(text, reason, len(tokens), len(output.prompt_token_ids), scores)

    def _open_weights(self) -> None:
        """Trace the layout of the weights on every rank.

        Raises:
            CanaryError: A tensor cannot be written exactly, or no rank holds some of its elements.
        """
        from workers.engines.vllm_worker import WeightsConfig  # imports vLLM: after the environment is set

        config = WeightsConfig(
            model_dir=str(Path(self.spec.model_dir).absolute()),
            dtype=self.spec.dtype,
            targets=self.spec.targets,
            base=self._base,
            sample=self._sample,
            threads=thread_count(self.spec) // self.spec.tensor_parallel,
        )
        self._sent_scalars.clear()  # the ranks begin with none
        try:
            ranks = self._rpc("landscape_open", config)
        except LayoutError as error:
            raise CanaryError(str(error)) from error
        for info in self._checkpoint.tensors():
            missing = uncovered(info.size, (region.slab for rank in ranks for region in rank.get(info.name, ())))
            if missing:
                raise CanaryError(
                    f"{missing} of {info.size} elements of {info.name} are nowhere in the engine's memory"
                )

    def _probe(self) -> list[tuple[int, float]]:
        """Return the first greedy token of two short prompts and its log-probability, to detect changed outputs."""
        from vllm import SamplingParams, TokensPrompt

        vocabulary = int(self._llm.llm_engine.model_config.get_vocab_size())
        prompts = [[vocabulary // 3, vocabulary // 2, vocabulary // 5], [vocabulary // 7, vocabulary // 4]]
        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids in prompts],
            SamplingParams(temperature=0.0, max_tokens=1, logprobs=0, detokenize=False),
            use_tqdm=False,
        )
        self._reset_prefix_cache()
        return [(token, entry.logprob) for o in outputs for token, entry in (o.outputs[0].logprobs or [{}])[0].items()]

    def _raise_if_wrong(self, method: str, *args: Any, problem: str) -> None:
        raise_if_wrong({name: why for rank in self._rpc(method, *args) for name, why in rank.items()}, problem)

    def _reset_prefix_cache(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM refused to reset its prefix cache")

    def _rpc(self, method: str, *args: Any) -> list[Any]:
        """Call a method of `vllm_worker.Extension` on every rank; return one result per rank."""
        results: list[Any] = self._llm.collective_rpc(method, args=args)
        return results


def set_environment(spec: EngineSpec) -> None:
    """Set the variables that vLLM and the libraries below it read. The user's stay, except the required ones."""
    os.environ.update(_required_environment(spec))
    socket_folder = {"VLLM_RPC_BASE_PATH": str(runtime_folder())}  # paths of sockets must be short
    for name, value in {**_QUIET, **_ON_LOOPBACK, **socket_folder}.items():
        os.environ.setdefault(name, value)


def _required_environment(spec: EngineSpec) -> dict[str, str]:
    """Return the settings without which the engine does not work."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    cores = cores[: thread_count(spec)]
    shares = [cores[rank :: spec.tensor_parallel] or [cores[-1]] for rank in range(spec.tensor_parallel)]
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # arguments of our own methods, between our own processes
        "VLLM_COMPUTE_NANS_IN_LOGITS": "1",  # see vllm_nonfinite.py
        "VLLM_RAISE_ON_LOGIT_NANS": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(map(str, share)) for share in shares),
        patches.WRITE_VARIABLE: resolved_write(spec),
    }


def _read(llm: Any, sequences: Sequence[TokenSequence]) -> list[list[float]]:
    """Let vLLM read prompt and text as one prompt; return the log-probability of each token of each text.

    vLLM 0.32 reads no cached prefix for such a request, because it returns no log-probabilities for one. It holds the
    logits of a whole sequence at a time: up to 4 x vocabulary bytes for each of its tokens.
    """
    from vllm import SamplingParams, TokensPrompt

    outputs = llm.generate(
        [TokensPrompt(prompt_token_ids=[*prompt, *text]) for prompt, text in sequences],
        SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False),
        use_tqdm=False,
    )
    return [
        [entry[token].logprob for token, entry in zip(text, output.prompt_logprobs[len(prompt) :], strict=True)]
        for (prompt, text), output in zip(sequences, outputs, strict=True)
    ]
