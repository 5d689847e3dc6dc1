"""Prompts for judge models: fill a judge's template with (prompt, response) pairs and tokenize it.

Tokenizing runs in a subprocess without PyTorch; run as a module, this file is that process. Special tokens of the
judge's tokenizer inside a prompt or response are broken up, as the template's own delimiters are, so that the judge
reads them as text.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.judges._model import ModelJudge, escape_delimiters
from orchestrator.prompts.chat_templates import (
    MEMORY_LIMIT,
    TIME_LIMIT,
    appends_eos,
    apply_chat_template,
    bare_prompt,
    load_tokenizer,
)
from orchestrator.sweep.tasks import Prompt, PromptSet, Sampling
from orchestrator.utils.errors import UserError
from orchestrator.utils.subprocesses import QUIET_TRANSFORMERS, MemoryLimitError, first_line, run_module, serve_module

JUDGE_FIELD = "judging.path"
Pair = tuple[str, str]
"""The text of a prompt, and a response to it."""


def judge_prompt(judge: ModelJudge, pair: Pair) -> Prompt:
    """Return the judge's prompt for one pair: the filled template. Its id depends on that text."""
    return Prompt("".join(judge.fill_template(*pair)), group=judge.answers_id)


def judge_prompt_set(judge: ModelJudge, folder: Path | None, pairs: Sequence[Pair], max_model_len: int) -> PromptSet:
    """Return the judge's prompts for these pairs, in their order, with greedy sampling.

    Args:
        judge: The judge.
        folder: The folder of its model. None: the dummy engine, which gets one number for each word.
        pairs: Prompts and responses.
        max_model_len: Limit of tokens of a prompt and the judge's answer. A response that does not fit is cut at its
            end.

    Raises:
        UserError: The tokenizer does not load, or a prompt leaves no space for a response.
    """
    limit = max_model_len - judge.max_tokens
    filled = [judge.fill_template(*pair) for pair in pairs]
    if folder is None:
        texts = ["".join(pieces) for pieces in filled]
        rendered = [(text, [len(word) for word in text.split()][:limit]) for text in texts]
    else:
        rendered = _render(judge, folder, filled, limit)
    return PromptSet(
        judge.answers_id,
        tuple(judge_prompt(judge, pair) for pair in pairs),
        tuple(text for text, _ in rendered),
        tuple(tuple(ids) for _, ids in rendered),
        Sampling(judge.max_tokens),
        probe_set=judge.name,
    )


def _render(judge: ModelJudge, folder: Path, filled: list[list[str]], limit: int) -> list[tuple[str, list[int]]]:
    """Return text and token ids of each filled template."""
    request = {
        "folder": str(folder.absolute()),
        "chat": judge.chat,
        "system": judge.system,
        "bos": judge.bos,
        "limit": limit,
        "pieces": filled,
    }
    response = _exchange(request)
    if reason := response.get("tokenizer"):
        remedy = f"{judge.name}'s tokenizer does not load ({reason}): fetch the model again, with its tokenizer.json"
        raise UserError(JUDGE_FIELD, folder, remedy)
    if "long" in response:
        remedy = f"a prompt and {judge.name}'s template take {response['long']} tokens: "
        raise UserError("judging.max_model_len", limit + judge.max_tokens, f"{remedy}raise it, or leave the prompt out")
    return [(text, ids) for text, ids in response["read"]]


def _exchange(request: dict[str, Any]) -> Any:
    try:
        return run_module("orchestrator.prompts.judge_prompts", request, QUIET_TRANSFORMERS, TIME_LIMIT, MEMORY_LIMIT)
    except MemoryLimitError as error:
        raise UserError(
            JUDGE_FIELD, request["folder"], f"its chat template or tokenizer {error}: use another"
        ) from error
    except subprocess.TimeoutExpired as error:
        remedy = f"its chat template or tokenizer took more than {TIME_LIMIT:.0f} seconds: use another"
        raise UserError(JUDGE_FIELD, request["folder"], remedy) from error


# The subprocess.


def respond(request: dict[str, Any]) -> dict[str, Any]:
    """Tokenize filled templates.

    Args:
        request: `folder` of the tokenizer; `chat`, `system` and `bos` of the judge; `limit` in tokens; and `pieces`: a
            list of texts for each pair, in which the template's own (even index) and inserted ones (odd) alternate.

    Returns:
        {"read": a (text, token ids) for each pair}, {"tokenizer": reason} if the tokenizer does not load, or
        {"long": number of tokens} if a pair does not fit even without the response.
    """
    try:
        tokenizer = load_tokenizer(request["folder"])
    except Exception as error:  # a dozen libraries raise all kinds of exceptions
        return {"tokenizer": first_line(error)}
    special = {
        token for token in (*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens) if len(token.strip()) > 1
    }
    special_ids = set(tokenizer.convert_tokens_to_ids(sorted(special)))
    unfilled = ["" if i % 2 else piece for i, piece in enumerate(request["pieces"][0])]
    _, ids = _tokenize(tokenizer, request, unfilled)
    expected = Counter(i for i in ids if i in special_ids)
    rendered = []
    for pieces in request["pieces"]:
        safe = [escape_delimiters(p, tuple(special), ignore_case=False) if i % 2 else p for i, p in enumerate(pieces)]
        text, ids = _tokenize_fitting(tokenizer, request, safe)
        if len(ids) > request["limit"]:
            return {"long": len(ids)}
        if Counter(i for i in ids if i in special_ids) != expected:
            raise RuntimeError(f"special tokens came through in a judged text: {safe}")
        rendered.append((text, ids))
    return {"read": rendered}


def _tokenize_fitting(tokenizer: Any, request: dict[str, Any], pieces: Sequence[str]) -> tuple[str, list[int]]:
    """Return text and token ids with as many characters of the response as fit into the limit.

    If not even one character fits, the response is left out, and the result may exceed the limit. The response is the
    last piece but one.
    """
    *front, response, end = pieces
    text, ids = _tokenize(tokenizer, request, pieces)
    if len(ids) <= request["limit"]:
        return text, ids
    low, high = 0, len(response)
    while low < high:  # bisection: `low` characters fit, unless even 0 do not
        middle = (low + high + 1) // 2
        _, ids = _tokenize(tokenizer, request, [*front, response[:middle], end])
        if len(ids) <= request["limit"]:
            low = middle
        else:
            high = middle - 1
    return _tokenize(tokenizer, request, [*front, response[:low], end])


def _tokenize(tokenizer: Any, request: dict[str, Any], pieces: Sequence[str]) -> tuple[str, list[int]]:
    """Return text and token ids of one filled template."""
    text = "".join(pieces)
    chat = bool(request["chat"] and tokenizer.chat_template)
    if chat:
        text = apply_chat_template(tokenizer, None, request["system"], text)
    elif request["chat"]:
        text = bare_prompt(request["system"], text)
    add_special_tokens = request["bos"] or (request["chat"] and not chat)
    ids: list[int] = tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
    if add_special_tokens and appends_eos(tokenizer):
        ids = ids[:-1]
    return text, ids


if __name__ == "__main__":
    serve_module(respond)
