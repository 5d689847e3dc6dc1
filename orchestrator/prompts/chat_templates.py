"""Chat templates and tokenizers, applied in a subprocess without PyTorch.

Run as a module, this file is that process: it answers one request of `rendering`. `judge_prompts` uses the same
functions in a process of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from orchestrator.utils.subprocesses import first_line, serve_module

TOKENIZER_TEMPLATE, NO_TEMPLATE = "tokenizer", "none"
"""Templates without a file in data/templates: the tokenizer's own chat template, and the bare text."""

TIME_LIMIT = 1800.0
"""Limit of the process in seconds: a template may loop for ever."""

DATE = datetime(2024, 7, 26)
"""The date given to templates that insert today's: prompts must not change overnight."""


def load_tokenizer(folder: str) -> Any:
    """Load the tokenizer in a folder, without the network and without running code of the model's repository.

    Call it in a subprocess only: it makes PyTorch impossible to import. transformers imports PyTorch if it is
    installed, which takes several seconds and is not needed here.
    """
    sys.modules["torch"] = None  # type: ignore[assignment]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def appends_eos(tokenizer: Any) -> bool:
    """Return whether the tokenizer ends texts with an end-of-sequence token, so that nothing can be generated."""
    added, plain = (tokenizer("a", add_special_tokens=special)["input_ids"][-1:] for special in (True, False))
    return bool(added != plain and added == [tokenizer.eos_token_id])


def apply_chat_template(tokenizer: Any, source: str | None, system: str | None, *turns: str) -> str:
    """Return the text that prompts the model with these turns.

    A template that refuses a system message, or leaves it out, gets it at the beginning of the first turn.

    Args:
        tokenizer: The model's tokenizer.
        source: A chat template in Jinja. None: the tokenizer's own.
        system: The system message. None: none, so that the template's default applies.
        *turns: The messages, by the user and the assistant in turn. The last one is the user's.

    Raises:
        ValueError: The template leaves the last message out.
    """

    def apply(*messages: tuple[str, str]) -> str:
        rendered: str = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages],
            chat_template=source,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
            date_string=DATE.strftime("%d %b %Y"),
            strftime_now=DATE.strftime,  # takes precedence over transformers' function of that name
        )
        if turns[-1].strip() not in rendered:
            raise ValueError("the template leaves the prompt out")
        return rendered

    messages = list(zip(itertools.cycle(("user", "assistant")), turns, strict=False))
    if system is None:
        return apply(*messages)
    with contextlib.suppress(Exception):
        rendered = apply(("system", system), *messages)
        if system.strip() in rendered:
            return rendered
    return apply(("user", bare_prompt(system, turns[0])), *messages[1:])


def bare_prompt(system: str | None, text: str) -> str:
    """Return the prompt without a chat template: SYSTEM, an empty line, USER; the user's text alone without SYSTEM."""
    return f"{system}\n\n{text}" if system else text


def with_prefill(prompt: str, prefill: str) -> str:
    """Append the beginning of the response to a prompt, after a space unless the prompt ends in whitespace."""
    if not prefill:
        return prompt
    space = "" if prompt[-1:].isspace() else " "
    return f"{prompt}{space}{prefill}"


def continuation_tokens(tokenizer: Any, prompt: str, continuations: Sequence[str], special: bool) -> list[int]:
    """Return the token that each continuation adds to a prompt.

    As in lm-evaluation-harness, it is what the tokens of the whole text have beyond those of the prompt.

    Raises:
        ValueError: A continuation is not exactly one token after this prompt.
    """
    before = tokenizer(prompt, add_special_tokens=special)["input_ids"]
    tokens = []
    for continuation in continuations:
        whole = tokenizer(prompt + continuation, add_special_tokens=special)["input_ids"]
        if whole[:-1] != before:
            raise ValueError(f"{continuation!r} is not one token after {prompt[-20:]!r}")
        tokens.append(whole[-1])
    return tokens


def respond(request: dict[str, Any]) -> dict[str, Any]:
    """Render and tokenize the conversations of all jobs.

    Args:
        request: `folder` of the tokenizer, `template` (its name), `source` (its text or null), and `jobs`, each of them
            (conversations, prefill, continuations). A conversation is (system prompt or null, turns).

    Returns:
        {"results": (rendered texts, token ids, tokens of the continuations) for each job}; {"tokenizer": reason} if the
        tokenizer does not load; {"text", "reason"} if a text cannot be rendered; {"continuation": reason} if a
        continuation is not one token.
    """
    try:
        tokenizer = load_tokenizer(request["folder"])
    except Exception as error:  # a dozen libraries raise all kinds of exceptions
        return {"tokenizer": first_line(error)}
    chat = request["template"] != NO_TEMPLATE and bool(request["source"] or tokenizer.chat_template)
    add_special_tokens = request["template"] != TOKENIZER_TEMPLATE or not chat
    drop_eos = add_special_tokens and appends_eos(tokenizer)
    results = []
    for conversations, prefill, continuations in request["jobs"]:
        rendered, token_ids = [], []
        for system, turns in conversations:
            try:
                if chat:
                    prompt = apply_chat_template(tokenizer, request["source"], system, *turns)
                else:
                    prompt = bare_prompt(system, "\n\n".join(turns))
                prompt = with_prefill(prompt, prefill)
                ids = tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]
            except Exception as error:
                return {"text": turns[-1], "reason": first_line(error)}
            rendered.append(prompt)
            token_ids.append(ids[:-1] if drop_eos else ids)
        try:  # all prompts of a job end alike, so one of them decides
            added = continuation_tokens(tokenizer, rendered[0], continuations, add_special_tokens and not drop_eos)
        except ValueError as error:
            return {"continuation": first_line(error)}
        results.append((rendered, token_ids, added))
    return {"results": results}


if __name__ == "__main__":
    serve_module(respond)
