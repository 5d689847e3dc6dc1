"""Make the judge `openai` from its options, and check them before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from orchestrator.config.schema import OpenAIConfig
from orchestrator.judges._model import PLACEHOLDERS
from orchestrator.judges.openai import JUDGE, OpenAI, Reading
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.paths import expanded

KINDS = (("refused", "complied"), ("safe", "unsafe"))
"""The verdicts of a judge of refusals, and of a judge of harm."""


def endpoint_judge(options: OpenAIConfig) -> OpenAI:
    """Return the judge that these options describe, without weights. Raises UserError for an option that is wrong."""
    if not options.model:
        raise UserError("openai.model", options.model, "name the model at the endpoint, such as openai.model=NAME")
    _check_address(options.base_url)
    if not re.fullmatch(r"[A-Za-z_]\w*", options.key_env, re.ASCII):
        remedy = "is the name of an environment variable, not a key: export NAME=KEY, and give openai.key_env=NAME"
        raise UserError("openai.key_env", "(not shown)", remedy)
    if options.max_cost is not None and None in (options.price_input, options.price_output):
        remedy = "needs the model's prices: add openai.price_input=DOLLARS and openai.price_output=DOLLARS"
        raise UserError("openai.max_cost", options.max_cost, remedy)
    if options.pattern is not None and options.json_field is not None:
        raise UserError("openai.pattern", options.pattern, "reads text, and openai.json_field reads JSON: give one")
    if options.pattern is not None:
        try:
            re.compile(options.pattern)
        except re.error as error:
            raise UserError("openai.pattern", options.pattern, f"is no regular expression ({error})") from error
    template = None if options.template is None else _read_template(options.template)
    reading = Reading(_words(options.words), options.pattern, options.json_field)
    return JUDGE.with_options(template, options.system, options.max_tokens, reading)


def _check_address(base_url: str | None) -> None:
    if base_url is None:
        return
    parts = urlsplit(base_url)
    if "@" in parts.netloc or parts.query:
        remedy = "would be stored: leave keys and passwords out of it, and export the key as OPENAI_API_KEY"
        raise UserError("openai.base_url", f"{parts.scheme}://(not shown)", remedy)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError("openai.base_url", base_url, "is no address, such as http://localhost:8000/v1")


def _words(entries: list[str]) -> Mapping[str, str]:
    """Return word -> verdict."""
    words: dict[str, str] = {}
    known = [verdict for kind in KINDS for verdict in kind]
    for entry in entries:
        word, sign, verdict = (part.strip() for part in entry.partition("="))
        if not sign or not word or verdict not in known:
            hint = did_you_mean(verdict, known)
            remedy = f"write WORD=VERDICT, with a verdict of {', '.join(known)}{hint}, such as yes=unsafe"
            raise UserError("openai.words", entry, remedy)
        words[word.lower()] = verdict
    if not any(set(words.values()) == set(kind) for kind in KINDS):
        remedy = "must have words for refused and complied, or for safe and unsafe"
        raise UserError("openai.words", f"[{','.join(entries)}]", remedy)
    return words


def _read_template(path: str) -> str:
    try:
        text = expanded(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("openai.template", path, f"cannot be read ({error}): name a text file in UTF-8") from error
    if sorted(PLACEHOLDERS.findall(text)) != ["prompt", "response"]:
        remedy = "must hold {prompt} and {response} once each, where they are to stand"
        raise UserError("openai.template", path, remedy)
    return text
