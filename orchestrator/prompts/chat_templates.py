"""Chat templates and tokenizers, applied in a subprocess without PyTorch.

Run as a module, this file is that process: it answers one request of `rendering`. `judge_prompts` uses the same
functions in a process of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Self
from unittest import mock

from orchestrator.sweep.tasks import MISSING_TEMPLATE, NO_TEMPLATE
from orchestrator.sweep.thoughts import tag_in
from orchestrator.utils.subprocesses import first_line, serve_module

TOKENIZER_TEMPLATE = "tokenizer"
"""Name of the tokenizer's own chat template. It and NO_TEMPLATE, the bare text, have no file in data/templates."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""Files of which a model's folder must hold one."""

TOKENIZER_CONFIG, JINJA_FILE = "tokenizer_config.json", "chat_template.jinja"
PROCESSOR_FILES = ("chat_template.json", "processor_config.json")
"""Files from which transformers reads a processor's chat template, but not a tokenizer's."""

PRINTED_PARTS = ("[{'type': 'text'", '[{"type": "text"')
"""Beginnings of a list of parts that a template prints instead of reading it."""

TIME_LIMIT = 1800.0
"""Limit of the process in seconds: a template may loop for ever."""

MEMORY_LIMIT = 8 << 30
"""Limit of the process's memory in bytes: a template may grow a text without end. Known tokenizers take under 2 GiB."""

OWN_VARIABLES = (
    *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize"),
    *("date_string", "strftime_now", "bos_token", "eos_token", "pad_token", "unk_token"),
)
"""Variables of chat templates that are set by this program or by the tokenizer, and so are no switches."""

HELPERS = ("raise_exception", "namespace", "range", "dict", "lipsum", "cycler", "joiner", "loop")
"""Functions that a template may call."""

DATE = datetime(2024, 7, 26)
"""The date given to templates that insert today's: prompts must not change overnight."""


def load_tokenizer(folder: str) -> Any:
    """Load the tokenizer in a folder, without the network and without running code of the model's repository.

    Call it in a subprocess only: it makes PyTorch impossible to import. transformers imports PyTorch if it is
    installed, which takes several seconds and is not needed here.

    A chat template that is only in a processor's file is used too. `tekken.json` is not read: if mistral_common is
    installed, transformers would prefer it to `tokenizer.json`, and its tokenizer has no chat template.

    Raises:
        ValueError: `tekken.json` is the folder's only tokenizer.
    """
    sys.modules["torch"] = None  # type: ignore[assignment]
    from transformers import AutoTokenizer

    path = Path(folder)
    if (path / "tekken.json").is_file() and not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError("its only tokenizer is tekken.json, which has no chat template")
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, mistral_format=False
    )
    if not tokenizer.chat_template:
        _, tokenizer.chat_template = _processor_template(path)
    return tokenizer


def template_file(folder: str, tokenizer: Any) -> str:
    """Return the file that holds a tokenizer's chat template, by its name. MISSING_TEMPLATE if there is none.

    The order is that of transformers.
    """
    if not tokenizer.chat_template:
        return MISSING_TEMPLATE
    path = Path(folder)
    if (path / JINJA_FILE).is_file() or any((path / "additional_chat_templates").glob("*.jinja")):
        return JINJA_FILE
    if _template_in(path / TOKENIZER_CONFIG):
        return TOKENIZER_CONFIG
    file, _ = _processor_template(path)
    return file or "the tokenizer's class"


def _processor_template(folder: Path) -> tuple[str, Any]:
    """Return the first of PROCESSOR_FILES that holds a template, and the template; ("", None) if none does."""
    for name in PROCESSOR_FILES:
        if template := _template_in(folder / name):
            return name, template
    return "", None


def _template_in(file: Path) -> Any:
    """Return the chat template in a JSON file: a text, or texts by name. None if there is none."""
    if not file.is_file():
        return None
    document = json.loads(file.read_text(encoding="utf-8"))
    template = document.get("chat_template") if isinstance(document, dict) else None
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}
    return template


def appends_eos(tokenizer: Any) -> bool:
    """Return whether the tokenizer ends texts with an end-of-sequence token, so that nothing can be generated."""
    added, plain = (tokenizer("a", add_special_tokens=special)["input_ids"][-1:] for special in (True, False))
    return bool(added != plain and added == [tokenizer.eos_token_id])


def special_tokens(tokenizer: Any) -> list[str]:
    """Return the tokens that engines leave out of the text of a response, unless its sampling keeps them."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def switches_of(templates: str) -> list[str]:
    """Return the variables that chat templates read and that nobody sets: their switches. Sorted.

    A template that cannot be parsed gives none.
    """
    from jinja2 import TemplateSyntaxError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(templates)
    except TemplateSyntaxError:
        return []
    return sorted(meta.find_undeclared_variables(tree) - {*OWN_VARIABLES, *HELPERS})


def unknown_switch(source: str, names: Iterable[str]) -> str | None:
    """Return the first of these names that a template's text does not contain as a word. None if it has all."""
    return next((name for name in names if re.search(rf"\b{re.escape(name)}\b", source) is None), None)


def apply_chat_template(
    tokenizer: Any,
    source: str | None,
    system: str | None,
    *turns: str,
    thinking: bool = False,
    args: Mapping[str, Any] | None = None,
) -> str:
    """Return the text that prompts the model with these turns.

    A template that refuses texts, or leaves them out, gets each message as a list of one part, {"type": "text",
    "text": ...}. A template that refuses a system message in both forms, or leaves it out, gets it at the beginning of
    the first turn.

    Args:
        tokenizer: The model's tokenizer.
        source: A chat template in Jinja. None: the tokenizer's own.
        system: The system message. None: none, so that the template's default applies.
        *turns: The messages, by the user and the assistant in turn. The last one is the user's.
        thinking: Whether to ask for a thought before the answer. Most templates have no such switch.
        args: Further variables of the template, which take precedence.

    Raises:
        ValueError: The template leaves the last message out.
    """

    def apply(messages: Sequence[tuple[str, str]], parts: bool) -> str:
        with _fixed_date():
            rendered: str = tokenizer.apply_chat_template(
                [
                    {"role": role, "content": [{"type": "text", "text": content}] if parts else content}
                    for role, content in messages
                ],
                chat_template=source,
                tokenize=False,
                add_generation_prompt=True,
                **{"enable_thinking": thinking, **({"thinking": True} if thinking else {}), **(args or {})},
                date_string=DATE.strftime("%d %b %Y"),
            )
        if turns[-1].strip() not in rendered:
            raise ValueError("the template leaves the prompt out")
        if parts and any(printed in rendered for printed in PRINTED_PARTS):
            raise ValueError("the template prints a list of parts as it is")
        return rendered

    messages = list(zip(itertools.cycle(("user", "assistant")), turns, strict=False))
    if system is not None:
        for parts in (False, True):
            with contextlib.suppress(Exception):
                rendered = apply([("system", system), *messages], parts)
                if system.strip() in rendered:
                    return rendered
        messages[0] = ("user", bare_prompt(system, turns[0]))
    try:
        return apply(messages, parts=False)
    except Exception:
        with contextlib.suppress(Exception):
            return apply(messages, parts=True)
        raise  # the reason against the usual form


class _FixedDate(datetime):
    """A datetime whose present is always DATE."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls(DATE.year, DATE.month, DATE.day, tzinfo=tz)


@contextlib.contextmanager
def _fixed_date() -> Iterator[None]:
    """Give transformers' template function `strftime_now` the date DATE.

    Transformers 5.24 turns a function among the variables of a template into text; 5.19 does not.
    """
    from transformers.utils import chat_template_utils

    with mock.patch.object(chat_template_utils, "datetime", _FixedDate):
        yield


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
            (conversations, prefill, [thinking, switches], continuations). A conversation is (system prompt or null,
            turns).

    Returns:
        {"results": (rendered texts, token ids, tokens of the continuations) for each job, "file":
        `template_file` of the tokenizer, "thought": the closing tag of thoughts that the template or the
        tokenizer's own template mentions, or "", "special": `special_tokens`}; {"tokenizer": reason} if the
        tokenizer does not load; {"switch", "known"} if the template does not read a switch; {"text", "reason"} if a
        text cannot be rendered; {"continuation": reason} if a continuation is not one token.
    """
    try:
        tokenizer = load_tokenizer(request["folder"])
    except Exception as error:  # a dozen libraries raise all kinds of exceptions
        return {"tokenizer": first_line(error)}
    chat = request["template"] != NO_TEMPLATE and bool(request["source"] or tokenizer.chat_template)
    add_special_tokens = request["template"] != TOKENIZER_TEMPLATE or not chat
    drop_eos = add_special_tokens and appends_eos(tokenizer)
    templates = f"{request['source'] or ''}{tokenizer.chat_template or ''}"
    results = []
    for conversations, prefill, (thinking, args), continuations in request["jobs"]:
        used = request["source"] or str(tokenizer.chat_template or "")
        if request["template"] != NO_TEMPLATE and (name := unknown_switch(used, args)) is not None:
            return {"switch": name, "known": switches_of(used)}
        rendered, token_ids = [], []
        for system, turns in conversations:
            try:
                if chat:
                    prompt = apply_chat_template(
                        tokenizer, request["source"], system, *turns, thinking=thinking, args=args
                    )
                else:
                    prompt = bare_prompt(system, "\n\n".join(turns))
                prompt = with_prefill(prompt, prefill)
                ids = tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]
            except MemoryError:
                raise  # of the process: the parent says so
            except Exception as error:
                return {"text": turns[-1], "reason": first_line(error)}
            rendered.append(prompt)
            token_ids.append(ids[:-1] if drop_eos else ids)
        try:  # all prompts of a job end alike, so one of them decides
            added = continuation_tokens(tokenizer, rendered[0], continuations, add_special_tokens and not drop_eos)
        except ValueError as error:
            return {"continuation": first_line(error)}
        results.append((rendered, token_ids, added))
    return {
        "results": results,
        "file": template_file(request["folder"], tokenizer),
        "thought": tag_in(templates),
        "special": special_tokens(tokenizer),
    }


if __name__ == "__main__":
    serve_module(respond)
