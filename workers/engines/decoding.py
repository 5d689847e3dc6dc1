"""Text of a response from its tokens, without special tokens except those that its sampling keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream


def left_out(tokenizer: Any, kept: Sequence[str]) -> frozenset[int]:
    """Return the ids of a tokenizer's special tokens, without those whose text is in `kept` (`Sampling.kept`)."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    return frozenset(i for i, token in added.items() if token.special and token.content not in kept)


class ResponseText:
    """The text that each token adds to a response, as vLLM decodes it: a stream that has read the prompt.

    Without kept tokens, the stream leaves special tokens out. It cannot keep some of them, so that with kept tokens it
    keeps all it reads, and does not read the others.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], kept: Sequence[str] = ()) -> None:
        """Read the prompt.

        Args:
            tokenizer: The model's tokenizer, from transformers.
            prompt: Its token ids.
            kept: Special tokens that stay in the text.
        """
        self._tokenizer = tokenizer.backend_tokenizer
        self._left_out = left_out(tokenizer, kept) if kept else frozenset[int]()
        ids = [token for token in prompt if token not in self._left_out]
        self._stream = DecodeStream(ids=ids, skip_special_tokens=not kept)

    def add(self, token: int) -> str:
        """Return the text that the next token adds. It is empty for a special token and inside a character."""
        if token in self._left_out:
            return ""
        return self._stream.step(self._tokenizer, token) or ""
