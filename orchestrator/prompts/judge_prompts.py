"""What a judge model reads: filled templates -> token ids, in a process of their own, without torch.

The tokenizer's special tokens inside a prompt or response are cut open like the template's own delimiters, so that they
are read as the text they are. Run as a module, this file is that process.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.judges._model import ModelJudge, cut_open
from orchestrator.prompts.rendering import QUIET, TIME_LIMIT, appends_end, bare, chat
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.utils import subprocesses as elsewhere
from orchestrator.utils.errors import UserError

FIELD = "judging.path"
Pair = tuple[str, str]  # a prompt's text and a response


def prompt_of(judge: ModelJudge, pair: Pair) -> Prompt:
    """One question to the judge, named by the filled template."""
    return Prompt("".join(judge.pieces(*pair)), group=judge.id)


def prompt_set(judge: ModelJudge, folder: Path | None, pairs: Sequence[Pair], max_model_len: int) -> PromptSet:
    """The judge asked about these pairs: greedy, in their order. A response too long for `max_model_len` is cut at its
    end. `folder` None is the dummy engine: numbers made of words.

    Raises UserError for a tokenizer that does not load, and for a prompt that leaves no room for a response.
    """
    limit = max_model_len - judge.max_tokens
    pieces = [judge.pieces(*pair) for pair in pairs]
    if folder is None:
        texts = ["".join(parts) for parts in pieces]
        read = [(text, [len(word) for word in text.split()][:limit]) for text in texts]
    else:
        read = _ask(judge, folder, pieces, limit)
    return PromptSet(
        judge.id,
        tuple(prompt_of(judge, pair) for pair in pairs),
        tuple(text for text, _ in read),
        tuple(tuple(ids) for _, ids in read),
        Sampling(judge.max_tokens),
        probe_set=judge.name,
    )


def _ask(judge: ModelJudge, folder: Path, pieces: list[list[str]], limit: int) -> list[tuple[str, list[int]]]:
    request = {
        "folder": str(folder.absolute()),
        "chat": judge.chat,
        "system": judge.system,
        "bos": judge.bos,
        "limit": limit,
        "pieces": pieces,
    }
    answer = _exchange(request)
    if reason := answer.get("tokenizer"):
        raise UserError(FIELD, folder, f"{judge.name}'s tokenizer does not load ({reason}): fetch the model again")
    if "long" in answer:
        remedy = f"a prompt and {judge.name}'s template take {answer['long']} tokens: raise it, or leave the prompt out"
        raise UserError("judging.max_model_len", limit + judge.max_tokens, remedy)
    return [(text, ids) for text, ids in answer["read"]]


def _exchange(request: dict[str, Any]) -> Any:
    return elsewhere.ask("orchestrator.prompts.judge_prompts", request, QUIET, TIME_LIMIT)


# --- in the other process -----------------------------------------------------------------------------------------


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """{"read": a (text, token ids) for each of the pieces}, or {"tokenizer": why} or {"long": tokens}."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # slow to import, and nothing of it is needed
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(request["folder"], local_files_only=True, trust_remote_code=False)
    except Exception as error:  # any, from a dozen libraries
        return {"tokenizer": elsewhere.reason(error)}
    special = {
        token for token in (*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens) if len(token.strip()) > 1
    }
    numbers = set(tokenizer.convert_tokens_to_ids(sorted(special)))
    empty = request["pieces"][0]
    _, ids = _tokens(tokenizer, request, ["" if i % 2 else piece for i, piece in enumerate(empty)])
    expected = Counter(i for i in ids if i in numbers)
    read = []
    for pieces in request["pieces"]:
        safe = [cut_open(p, tuple(special), ignore_case=False) if i % 2 else p for i, p in enumerate(pieces)]
        text, ids = _fitting(tokenizer, request, safe)
        if len(ids) > request["limit"]:
            return {"long": len(ids)}
        if Counter(i for i in ids if i in numbers) != expected:
            raise RuntimeError(f"special tokens came through in a judged text: {safe}")
        read.append((text, ids))
    return {"read": read}


def _fitting(tokenizer: Any, request: dict[str, Any], pieces: Sequence[str]) -> tuple[str, list[int]]:
    """The same with as much of the response as fits."""
    *front, response, end = pieces
    text, ids = _tokens(tokenizer, request, pieces)
    low, high = 0, len(response) if len(ids) > request["limit"] else 0
    while low < high:  # most characters with which it fits; with `low` of them it does, or nothing does
        middle = (low + high + 1) // 2
        tried = _tokens(tokenizer, request, [*front, response[:middle], end])
        low, high = (middle, high) if len(tried[1]) <= request["limit"] else (low, middle - 1)
    return (text, ids) if len(ids) <= request["limit"] else _tokens(tokenizer, request, [*front, response[:low], end])


def _tokens(tokenizer: Any, request: dict[str, Any], pieces: Sequence[str]) -> tuple[str, list[int]]:
    """The text and token ids of one filled template."""
    text = "".join(pieces)
    chatting = bool(request["chat"] and tokenizer.chat_template)
    if chatting:
        text = chat(tokenizer, None, request["system"], text)
    elif request["chat"]:
        text = bare(request["system"], text)
    special = request["bos"] or (request["chat"] and not chatting)
    ids: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
    return text, ids[:-1] if special and appends_end(tokenizer) else ids


if __name__ == "__main__":
    elsewhere.serve(_answer)
