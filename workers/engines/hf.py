"""transformers as an engine: slow and plain. The tests' oracle, and what a machine without vLLM runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import tokenizers.decoders
import torch
import transformers

from orchestrator.sweep.points import Point, RandomDirection
from orchestrator.sweep.tasks import PromptSet, Sampling
from orchestrator.utils.errors import UserError
from workers.engines.vllm import (
    CanaryError,
    Engine,
    EngineSpec,
    Generation,
    device_name,
    letter_tokens,
    limit_kernels,
    log_sum,
    measure,
    refuse,
    terminators,
    threads,
)
from workers.noise.definition import Slab
from workers.weights.checkpoint import Checkpoint, TensorInfo
from workers.weights.device_memory import TORCH
from workers.weights.layout import Region
from workers.weights.resident import Piece, ResidentWeights
from workers.weights.targets import open_ends

MAX_BATCH = 16


class TransformersEngine(Engine):
    """AutoModelForCausalLM, greedy, prompts in left-padded batches of at most 16 from one prompt set."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        if spec.device != "cpu":
            raise UserError("engine", "transformers", "runs on the CPU only: use engine=vllm on a GPU")
        torch.set_num_threads(threads(spec))
        limit_kernels(threads(spec))
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._checkpoint = Checkpoint(spec.model_dir)
        ends = open_ends(spec.targets, self._checkpoint)  # before the load
        model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
            spec.model_dir,
            dtype=TORCH[spec.dtype],
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below
        )
        self._refuse_gaps(loaded)
        self._model = model.eval()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(spec.model_dir, local_files_only=True)
        self._terminators = terminators(spec.model_dir, self._tokenizer.eos_token_id)
        self._batch = min(spec.max_num_seqs, MAX_BATCH)
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        layout = {info.name: [self._region(info, parameters)] for info in self._checkpoint.tensors()}
        self._weights = ResidentWeights(self._checkpoint, layout, parameters, spec.dtype, ends)

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "engine": "transformers",
            "version": transformers.__version__,
            "device": device_name("cpu"),
            "dtype": self.spec.dtype,
            "tensor_parallel": 1,
            "max_model_len": self.spec.max_model_len,
            "max_num_seqs": self._batch,
        }

    def tensors(self) -> list[TensorInfo]:
        return self._checkpoint.tensors()

    def measure(self, direction: RandomDirection) -> pa.Table:
        return measure(self._checkpoint, direction)

    def write(self, point: Point, scalars: Mapping[str, pa.Table]) -> None:
        self._weights.move(point, scalars)

    def read(self, name: str, rank: int = 0) -> list[Piece]:
        return self._weights.read(name)

    def canary(self) -> None:
        refuse(self._weights.holds_base(), "the engine does not hold the checkpoint's weights")
        before = self._pulse()
        self._weights.canary()
        refuse(self._weights.holds_canary(), "a write did not reach the weights")
        moved = self._pulse()
        self._weights.origin()
        refuse(self._weights.holds_base(), "the way back to the origin is not exact")
        if torch.equal(moved, before):
            raise CanaryError("every tensor was written, and the model's answer did not change")
        if not torch.equal(self._pulse(), before):
            raise CanaryError("back at the origin the model's answer is not what it was")

    def logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Logits at every position of one sequence, float32[tokens, vocabulary]: where tests look for near-ties."""
        with torch.inference_mode():
            logits: torch.Tensor = self._model(input_ids=torch.tensor([list(token_ids)])).logits[0].float()
        return logits

    def close(self) -> None:
        del self._model, self._weights
        gc.collect()

    def _generate(self, prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
        answered = []
        for prompts in prompt_sets:
            ids = prompts.token_ids
            batches = (ids[i : i + self._batch] for i in range(0, len(ids), self._batch))
            answered.append([answer for batch in batches for answer in self._answer(batch, prompts.sampling)])
        return answered

    def _answer(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[Generation]:
        """Greedy decoding of one batch. A response that has ended stays in it, unheard, until all have."""
        longest = max(map(len, prompts))
        width = torch.tensor([len(prompt) for prompt in prompts])
        inputs = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = (torch.arange(longest) >= longest - width[:, None]).long()
        heard = [_Response(self._tokenizer, prompt, sampling, self._terminators) for prompt in prompts]
        cache, first = None, None
        with torch.inference_mode():
            for _ in range(sampling.max_tokens):
                positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
                out = self._model(
                    input_ids=inputs,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                logits, cache = out.logits[:, -1].float(), out.past_key_values
                first = logits.log_softmax(-1) if first is None else first
                inputs = logits.argmax(-1, keepdim=True)
                for response, token in zip(heard, inputs[:, 0].tolist(), strict=True):
                    response.hear(token)
                if all(response.finish_reason for response in heard):
                    break
                mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        letters = letter_tokens(self._tokenizer, sampling.letters)
        for i, (prompt, response) in enumerate(zip(prompts, heard, strict=True)):
            scores = [log_sum(first[i, ids].tolist()) for ids in letters] if letters and first is not None else None
            reason = response.finish_reason or "length"
            yield Generation(response.text, reason, len(response.tokens), len(prompt), scores)

    def _refuse_gaps(self, loaded: Mapping[str, Any]) -> None:
        """Raises UserError (model.path) where transformers made up a parameter that the checkpoint does not give."""
        for name in sorted(loaded["missing_keys"]):
            remedy = f"lacks tensor {name}, which its architecture has: fetch it again"
            raise UserError("model.path", self.spec.model_dir, remedy)
        for name, found, wanted in sorted(loaded["mismatched_keys"]):
            shapes = f"{list(found)} and not {list(wanted)}"
            remedy = f"its tensor {name} is {shapes}, as its config.json says: fetch it again"
            raise UserError("model.path", self.spec.model_dir, remedy)

    def _region(self, info: TensorInfo, parameters: Mapping[str, torch.Tensor]) -> Region:
        """The parameter of that name, which holds the whole tensor unless transformers converts it."""
        prefix = f"{self._model.base_model_prefix}."
        for name in (info.name, prefix + info.name, info.name.removeprefix(prefix)):
            if name in parameters and tuple(parameters[name].shape) == info.shape:
                assert parameters[name].is_contiguous()
                return Region(name, Slab.whole(info.size))
        remedy = f"transformers converts tensor {info.name} when it loads this architecture: use engine=vllm"
        raise UserError("model.path", self.spec.model_dir, remedy)

    def _pulse(self) -> torch.Tensor:
        size = self._model.config.get_text_config().vocab_size
        return self.logits([size // 3, size // 2, size // 5])


class _Response:
    """One response as it is heard, token by token: text and end, with vLLM's meaning of both.

    The text is what a decode stream primed with the prompt gives; special tokens say nothing; a stop
    string ends the response, which is cut right after it.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], sampling: Sampling, terminators: set[int]) -> None:
        self.text, self.tokens, self.finish_reason = "", list[int](), ""
        self._tokenizer = tokenizer.backend_tokenizer
        self._stream = tokenizers.decoders.DecodeStream(ids=list(prompt), skip_special_tokens=True)
        self._sampling, self._terminators = sampling, terminators

    def hear(self, token: int) -> None:
        if self.finish_reason:
            return
        self.tokens.append(token)
        before = len(self.text)
        self.text += self._stream.step(self._tokenizer, token) or ""
        if token in self._terminators:
            self.finish_reason = "stop"
        elif end := self._stopped(before):
            self.text, self.finish_reason = self.text[:end], "stop"
        elif len(self.tokens) == self._sampling.max_tokens:
            self.finish_reason = "length"

    def _stopped(self, before: int) -> int:
        """Where the first stop string to be completed by the last token ends; 0: none."""
        if len(self.text) == before:
            return 0
        ends = []
        for stop in self._sampling.stop:
            found = self.text.find(stop, max(0, before - len(stop) + 1))
            if found >= 0:
                ends.append(found + len(stop))
        return min(ends, default=0)
