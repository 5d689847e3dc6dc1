"""Engine that generates with transformers: slow and simple. It is the tests' reference, and serves without vLLM."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch
import transformers

from orchestrator.store.engine_identity import SCHEMA as IDENTITY_SCHEMA
from orchestrator.sweep.directions import Direction
from orchestrator.sweep.points import Point
from orchestrator.sweep.tasks import NONFINITE, PromptSet, Sampling
from orchestrator.utils.errors import UserError
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
    terminators,
    thread_count,
)
from workers.engines.decoding import ResponseText
from workers.engines.switches import switches_set
from workers.noise.cpu import limit_threads
from workers.noise.definition import Slab
from workers.weights.checkpoint import MappedCheckpoint, TensorInfo
from workers.weights.device_memory import TORCH_DTYPES
from workers.weights.layout import Region
from workers.weights.resident import Piece, ResidentWeights
from workers.weights.targets import open_endpoints

MAX_BATCH = 16


class TransformersEngine(Engine):
    """AutoModelForCausalLM on one device: greedy, in left-padded batches of at most 16 prompts from one prompt set."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._switches = switches_set("transformers")
        if spec.tensor_parallel != 1:
            remedy = "engine=transformers uses one device: leave it out, or use engine=vllm"
            raise UserError("engine.tensor_parallel", spec.tensor_parallel, remedy)
        self._device = torch.device(spec.device)
        torch.set_num_threads(thread_count(spec))
        limit_threads(thread_count(spec))
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._checkpoint = MappedCheckpoint(spec.model_dir)
        endpoints = open_endpoints(
            spec.targets, self._checkpoint
        )  # raises UserError before the load if a target does not fit
        model, loading_info = transformers.AutoModelForCausalLM.from_pretrained(
            spec.model_dir,
            dtype=TORCH_DTYPES[spec.dtype],
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `_check_all_weights_loaded` raises an error that names the tensor
        )
        self._check_all_weights_loaded(loading_info)
        self._model = model.eval().to(self._device)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(
            spec.model_dir, local_files_only=True, mistral_format=False
        )
        self._terminators = terminators(spec.model_dir, self._tokenizer.eos_token_id)
        self._batch = min(spec.max_num_seqs or MAX_BATCH, MAX_BATCH)
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        layout = {info.name: [self._region(info, parameters)] for info in self._checkpoint.tensors()}
        self._weights = ResidentWeights(self._checkpoint, layout, parameters, spec.dtype, endpoints)

    @property
    def identity(self) -> dict[str, Any]:
        """Version, device and every setting that changes how a batch is divided or how results are rounded."""
        return {
            "schema": IDENTITY_SCHEMA,
            "engine": "transformers",
            "version": transformers.__version__,
            "device": device_name(self.spec.device),
            "dtype": self.spec.dtype,
            "tensor_parallel": 1,
            "max_model_len": self.spec.max_model_len,
            "max_num_seqs": self._batch,
            "attention_backend": self._model.config._attn_implementation,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "environment": self._switches,
        }

    def tensors(self) -> list[TensorInfo]:
        """Return the checkpoint's tensors sorted by name; tied tensors appear once."""
        return self._checkpoint.tensors()

    def measure(self, direction: Direction) -> pa.Table:
        """Return the scalars of a direction, its scaling factors on this model: a table of `perturbation.schema`."""
        return measure_scalars(self._checkpoint, direction, self.spec.targets)

    def apply_point(self, point: Point, scalars: Mapping[str, pa.Table]) -> None:
        """Write the weights of a point."""
        self._weights.apply_point(point, scalars)

    def read(self, name: str, rank: int = 0) -> list[Piece]:
        """Return a copy of a checkpoint tensor as one piece. `rank` is not used."""
        return self._weights.read(name)

    def verify_writes(self) -> None:
        """Run the canary check of docs/weights.md, then restore the base bit for bit.

        Raises:
            CanaryError: A write has no effect, or an unexpected one.
        """
        weights = self._weights
        raise_if_wrong(weights.differences_from_base(), "the engine does not hold the checkpoint's weights")
        before = self._probe()
        weights.apply_canary()
        raise_if_wrong(weights.differences_from_canary(), "a write did not reach the weights")
        moved = self._probe()
        weights.restore()
        raise_if_wrong(weights.differences_from_base(), "the way back to the origin is not exact")
        if torch.equal(moved, before):
            raise CanaryError("every tensor was written, and the model's output did not change")
        if not torch.equal(self._probe(), before):
            raise CanaryError("back at the origin, the model's output differs from what it was before")

    def logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Return the logits at every position of one sequence, float32[tokens, vocabulary], on the engine's device."""
        with torch.inference_mode():
            ids = torch.tensor([list(token_ids)], device=self._device)
            logits: torch.Tensor = self._model(input_ids=ids).logits[0].float()
        return logits

    def close(self) -> None:
        """Release the model."""
        del self._model, self._weights
        gc.collect()

    def _generate(self, prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
        generations = []
        for prompts in prompt_sets:
            ids = prompts.token_ids
            batches = (ids[i : i + self._batch] for i in range(0, len(ids), self._batch))
            generations.append([one for batch in batches for one in self._decode(batch, prompts.sampling)])
        return generations

    def _token_log_probabilities(self, sequences: Sequence[TokenSequence]) -> list[list[float]]:
        measured = []
        for prompt, text in sequences:
            logits = self.logits([*prompt, *text])[len(prompt) - 1 : -1]  # the logits before each token of the text
            tokens = torch.tensor(list(text), device=self._device)
            measured.append(logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist())
        return measured

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the prompts padded on the left, and their attention mask: int64[prompts, tokens] each."""
        longest = max(map(len, prompts))
        inputs = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=self._device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        return inputs, (torch.arange(longest, device=self._device) >= longest - lengths[:, None]).long()

    def _step(self, inputs: torch.Tensor, mask: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        """Process the next tokens of a batch; return the logits after them (prompts x vocabulary) and the cache.

        Args:
            inputs: The tokens that are not in the cache yet, int64[prompts, tokens].
            mask: The attention mask over all tokens so far.
            cache: Keys and values of the earlier tokens; None at first.
        """
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
        out = self._model(
            input_ids=inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float(), out.past_key_values

    def _decode(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[Generation]:
        """Decode one batch greedily.

        A response that has ended stays in the batch until all have ended; its further tokens are ignored.
        """
        inputs, mask = self._padded(prompts)
        responses = [_Response(self._tokenizer, prompt, sampling, self._terminators) for prompt in prompts]
        cache, first = None, None
        with torch.inference_mode():
            for _ in range(sampling.max_tokens):
                logits, cache = self._step(inputs, mask, cache)
                first = logits.log_softmax(-1) if first is None else first
                inputs = logits.argmax(-1, keepdim=True)
                defined = logits.amax(-1).isfinite().tolist()
                for response, token, is_defined in zip(responses, inputs[:, 0].tolist(), defined, strict=True):
                    response.add(token if is_defined else None)
                if all(response.finish_reason for response in responses):
                    break
                mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        letters = letter_tokens(self._tokenizer, sampling)
        for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            scores = [log_sum(first[i, ids].tolist()) for ids in letters] if letters and first is not None else None
            reason = response.finish_reason or "length"
            yield Generation(response.text, reason, len(response.tokens), len(prompt), scores)

    def _check_all_weights_loaded(self, loading_info: Mapping[str, Any]) -> None:
        """Raise UserError (model.path) if transformers initialized a parameter for which the checkpoint has no tensor.

        A tensor of another shape counts as missing.
        """
        for name in sorted(loading_info["missing_keys"]):
            remedy = f"lacks tensor {name}, which its architecture has: fetch it again"
            raise UserError("model.path", self.spec.model_dir, remedy)
        for name, stored, expected in sorted(loading_info["mismatched_keys"]):
            shapes = f"{list(stored)} and not {list(expected)}"
            remedy = f"its tensor {name} is {shapes}, the shape that its config.json requires: fetch it again"
            raise UserError("model.path", self.spec.model_dir, remedy)

    def _region(self, info: TensorInfo, parameters: Mapping[str, torch.Tensor]) -> Region:
        """Return the whole parameter that holds a checkpoint tensor.

        Raises:
            UserError: No parameter has the tensor's name and shape, because transformers converts it (model.path).
        """
        prefix = f"{self._model.base_model_prefix}."
        for name in (info.name, prefix + info.name, info.name.removeprefix(prefix)):
            if name in parameters and tuple(parameters[name].shape) == info.shape:
                assert parameters[name].is_contiguous()
                return Region(name, Slab.whole(info.size))
        remedy = f"transformers converts tensor {info.name} when it loads this architecture: use engine=vllm"
        raise UserError("model.path", self.spec.model_dir, remedy)

    def _probe(self) -> torch.Tensor:
        """Return the logits of a short prompt, to detect changed outputs."""
        size = self._model.config.get_text_config().vocab_size
        return self.logits([size // 3, size // 2, size // 5])


class _Response:
    """One response, decoded token by token. Its text, and where it ends, follow vLLM's rules.

    The text is that of `ResponseText`. A stop string ends the response, which is cut right after it.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], sampling: Sampling, terminators: set[int]) -> None:
        self.text, self.tokens, self.finish_reason = "", list[int](), ""
        self._decoded = ResponseText(tokenizer, prompt, sampling.kept)
        self._sampling, self._terminators = sampling, terminators

    def add(self, token: int | None) -> None:
        """Append a token, unless the response has ended. None: the logits are not finite, which ends the response."""
        if self.finish_reason:
            return
        if token is None:
            self.finish_reason = NONFINITE
            return
        self.tokens.append(token)
        before = len(self.text)
        self.text += self._decoded.add(token)
        if token in self._terminators:
            self.finish_reason = "stop"
        elif end := self._end_of_stop_string(before):
            self.text, self.finish_reason = self.text[:end], "stop"
        elif len(self.tokens) == self._sampling.max_tokens:
            self.finish_reason = "length"

    def _end_of_stop_string(self, before: int) -> int:
        """Return the end of the first stop string in the text that the last token has completed.

        Args:
            before: Length of the text before the last token.

        Returns:
            Position after the stop string, or 0 if the last token has completed none.
        """
        if len(self.text) == before:
            return 0
        ends = []
        for stop in self._sampling.stop:
            start = self.text.find(stop, max(0, before - len(stop) + 1))
            if start >= 0:
                ends.append(start + len(stop))
        return min(ends, default=0)
