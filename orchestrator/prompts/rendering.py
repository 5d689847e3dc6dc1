"""Prompts -> prompt sets: the model's chat template and tokenizer, applied in a process of their own, without torch.

What came out is kept in the user's cache, so that a re-run starts no process. Run as a module, this file is that
process: a request on standard input, the answer on standard output, both JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.models.checkpoint import INDEX, cache_dir
from orchestrator.prompts.probe_sets import ProbeSet
from orchestrator.sweep.tasks import PromptSet, Sampling
from orchestrator.utils import subprocesses as elsewhere
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.hashing import content_id, file_sha256
from orchestrator.utils.paths import DATA_DIR

RENDER_VERSION = 2  # counted in the cache's keys: raise it with every change of what is rendered
TEMPLATES = DATA_DIR / "templates"
TOKENIZER, NONE = "tokenizer", "none"  # the templates that are no file
FIELD = "model.template"
READ_BY_TOKENIZERS = (".json", ".jinja", ".model", ".txt")
DATE = datetime(2024, 7, 26)  # what templates are told that put today's in: prompts must not change overnight
DUMMY_VOCABULARY = 50_000
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
TIME_LIMIT = 1800.0  # seconds: a template may loop for ever


@dataclass(frozen=True)
class SystemPrompt:
    """`text` None: no system message, so the model's own default. "": an empty one, in the default's place.

    `template`: another than the model's, such as "none", to ask without one. None: the model's.
    """

    name: str
    text: str | None
    template: str | None = None


@dataclass(frozen=True)
class _Rendered:
    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]


def render(
    model_dir: Path | None,
    probe_sets: Sequence[ProbeSet],
    system_prompts: Sequence[SystemPrompt],
    sampling_of: Callable[[ProbeSet], Sampling],
    template: str = TOKENIZER,
) -> list[PromptSet]:
    """Every probe set under every system prompt, in that order, as the model in this folder is to be asked.

    `template`: "tokenizer", the chat template beside the tokenizer; NAME, ours of data/templates/NAME.jinja; "none",
    the bare text, "SYSTEM\\n\\nUSER". A tokenizer that has no chat template gets the bare text too.
    Token ids are of the rendered text. A tokenizer's own template writes its special tokens itself, and none are added;
    to a named template and to the bare text the tokenizer adds its own (such as <s>), but never an end of sequence.
    A template that refuses a system message, or leaves it out, gets it in the user's: "SYSTEM\\n\\nUSER".
    Templates that put in the date are told 26 July 2024; those that can have the model think aloud first are told not
    to (`enable_thinking`, Qwen3's). What the response begins with (`prefill`) follows the prompt. Templates run in
    Jinja's sandbox; code of the model's repository is never run; nothing is fetched. A prompt's choices must be in its
    text.

    `model_dir` None is the dummy engine: bare text, and numbers made of its words.

    Raises UserError for an unknown template, a tokenizer that does not load, a prompt that does not render.
    """
    pairs = [(probes, system) for probes in probe_sets for system in system_prompts]
    jobs = [
        Job(system.text, tuple(prompt.text for prompt in probes.prompts), probes.prefill, system.template or template)
        for probes, system in pairs
    ]
    sources = {job.template: _source(job.template) for job in jobs}
    done = [_stand_in(job) for job in jobs] if model_dir is None else _cached(model_dir, sources, jobs)
    return [
        PromptSet(
            probes.group,
            probes.prompts,
            rendered.texts,
            rendered.token_ids,
            sampling_of(probes),
            probe_set=probes.name,
            system_prompt=system.name,
            origin=probes.origin,
        )
        for (probes, system), rendered in zip(pairs, done, strict=True)
    ]


def token_ids(model_dir: Path, texts: Sequence[str], template: str = TOKENIZER) -> tuple[tuple[int, ...], ...]:
    """The same of bare requests, asked under the model's own system prompt."""
    (rendered,) = _cached(model_dir, {template: _source(template)}, [Job(None, tuple(texts), "", template)])
    return rendered.token_ids


@dataclass(frozen=True)
class Job:
    """Texts to be asked under one system prompt, by one template, with what their responses begin with."""

    system: str | None
    texts: tuple[str, ...]
    prefill: str
    template: str


def _source(template: str) -> str | None:
    """The text of a named template; None for the tokenizer's own and for none at all."""
    if template in (TOKENIZER, NONE):
        return None
    known = {file.stem: file for file in sorted(TEMPLATES.glob("*.jinja"))}
    if template not in known:
        names = [TOKENIZER, NONE, *known]
        hint = did_you_mean(template, names)
        raise UserError(FIELD, template, f"is no template: they are {', '.join(names)}{hint}")
    return known[template].read_text(encoding="utf-8")


def bare(system: str | None, text: str) -> str:
    return f"{system}\n\n{text}" if system else text


def _begun(prompt: str, prefill: str) -> str:
    """A prompt with the beginning of its response, which a space parts from it where nothing else does."""
    return f"{prompt}{'' if not prefill or prompt[-1:].isspace() else ' '}{prefill}" if prefill else prompt


def _stand_in(job: Job) -> _Rendered:
    """For an engine that has no model: as many tokens as words, the same on every machine."""

    def number(word: str) -> int:
        return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big") % DUMMY_VOCABULARY

    rendered = tuple(_begun(bare(job.system, text), job.prefill) for text in job.texts)
    return _Rendered(rendered, tuple(tuple(map(number, text.split())) for text in rendered))


# --- the cache ----------------------------------------------------------------------------------------------------


def _cached(folder: Path, sources: Mapping[str, str | None], jobs: Sequence[Job]) -> list[_Rendered]:
    tokenizer = _tokenizer_id(folder)
    keys = [content_id([RENDER_VERSION, tokenizer, sources[job.template], *vars(job).values()]) for job in jobs]
    cache = cache_dir() / "rendered"
    known = {key: kept for key in keys if (kept := _load(cache / f"{key}.json", key))}
    missing = {key: job for key, job in zip(keys, jobs, strict=True) if key not in known}
    for template in dict.fromkeys(job.template for job in missing.values()):
        asked = {key: job for key, job in missing.items() if job.template == template}
        for key, rendered in zip(asked, _ask(folder, template, sources[template], list(asked.values())), strict=True):
            known[key] = rendered
            _keep(cache / f"{key}.json", key, rendered)
    return [known[key] for key in keys]


def _tokenizer_id(folder: Path) -> str:
    """A content hash of every file that a tokenizer may be made of, and of the libraries that make it."""
    try:
        files = sorted(
            file
            for place in (folder, folder / "additional_chat_templates")
            for file in place.glob("[!.]*")
            if file.suffix in READ_BY_TOKENIZERS and file.name != INDEX and file.is_file()
        )
        hashes = [[file.relative_to(folder).as_posix(), file_sha256(file)] for file in files]
    except OSError as error:
        remedy = f"its tokenizer could not be read ({error.strerror or error}): give a readable folder"
        raise UserError("model.path", folder, remedy) from error
    libraries = [importlib.metadata.version(name) for name in ("transformers", "tokenizers", "jinja2")]
    return content_id([hashes, libraries])


def _load(file: Path, key: str) -> _Rendered | None:
    """What was kept under this key; None where there is nothing, or something damaged."""
    try:
        value = json.loads(file.read_bytes())
        if value["check"] != content_id([key, value["rendered"], value["token_ids"]]):
            return None
        return _Rendered(tuple(value["rendered"]), tuple(map(tuple, value["token_ids"])))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _keep(file: Path, key: str, rendered: _Rendered) -> None:
    """Kept for the next run; where that cannot be, this one goes on."""
    check = content_id([key, rendered.texts, rendered.token_ids])
    value = {"check": check, "rendered": rendered.texts, "token_ids": rendered.token_ids}
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, suffix=".tmp", delete=False) as stream:
            temporary = stream.name
            json.dump(value, stream)
        os.replace(temporary, file)
    except OSError:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


# --- the other process, from here ---------------------------------------------------------------------------------


def _ask(folder: Path, template: str, source: str | None, jobs: Sequence[Job]) -> list[_Rendered]:
    asked = [(job.system, job.texts, job.prefill) for job in jobs]
    request = {"folder": str(folder.absolute()), "template": template, "source": source, "jobs": asked}
    answer = _exchange(request)
    if reason := answer.get("tokenizer"):
        raise UserError("model.path", folder, f"its tokenizer does not load ({reason}): fetch the model again")
    if "text" in answer:
        remedy = f"cannot render the prompt {answer['text']!r} ({answer['reason']}): leave it out, or set {FIELD}=none"
        raise UserError(FIELD, template, remedy)
    results = [_Rendered(tuple(texts), tuple(map(tuple, ids))) for texts, ids in answer["results"]]
    for job, result in zip(jobs, results, strict=True):
        for text, ids in zip(job.texts, result.token_ids, strict=True):
            if not ids:
                raise UserError("probes", text, "is no token at all to this model's tokenizer: leave it out")
    return results


def _exchange(request: dict[str, Any]) -> Any:
    try:
        return elsewhere.ask("orchestrator.prompts.rendering", request, QUIET, TIME_LIMIT)
    except subprocess.TimeoutExpired as error:
        remedy = f"did not render within {TIME_LIMIT:.0f} seconds: set {FIELD}=none"
        raise UserError(FIELD, request["template"], remedy) from error


# --- in the other process -----------------------------------------------------------------------------------------


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """{"results": a (texts, token ids) for each job}, or what went wrong: {"tokenizer": why} or {"text", "reason"}."""
    # transformers imports torch where it finds it: 10 of 13 seconds here, and nothing of it is needed
    sys.modules["torch"] = None  # type: ignore[assignment]
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(request["folder"], local_files_only=True, trust_remote_code=False)
    except Exception as error:  # any, from a dozen libraries
        return {"tokenizer": elsewhere.reason(error)}
    chatting = request["template"] != NONE and bool(request["source"] or tokenizer.chat_template)
    special = request["template"] != TOKENIZER or not chatting
    cut = special and appends_end(tokenizer)
    results = []
    for system, texts, prefill in request["jobs"]:
        rendered, token_ids = [], []
        for text in texts:
            try:
                whole = chat(tokenizer, request["source"], system, text) if chatting else bare(system, text)
                whole = _begun(whole, prefill)
                ids = tokenizer(whole, add_special_tokens=special)["input_ids"]
            except Exception as error:
                return {"text": text, "reason": elsewhere.reason(error)}
            rendered.append(whole)
            token_ids.append(ids[:-1] if cut else ids)
        results.append((rendered, token_ids))
    return {"results": results}


def appends_end(tokenizer: Any) -> bool:
    """Some put an end of sequence behind every text, after which there is nothing to say."""
    added, plain = (tokenizer("a", add_special_tokens=special)["input_ids"][-1:] for special in (True, False))
    return bool(added != plain and added == [tokenizer.eos_token_id])


def chat(tokenizer: Any, source: str | None, system: str | None, text: str) -> str:
    def apply(*messages: tuple[str, str]) -> str:
        rendered: str = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages],
            chat_template=source,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
            date_string=DATE.strftime("%d %b %Y"),
            strftime_now=DATE.strftime,  # the template's variables come before transformers' function of that name
        )
        if text.strip() not in rendered:
            raise ValueError("the template leaves the prompt out")
        return rendered

    if system is None:
        return apply(("user", text))
    with contextlib.suppress(Exception):
        rendered = apply(("system", system), ("user", text))
        if system.strip() in rendered:
            return rendered
    return apply(("user", bare(system, text)))


if __name__ == "__main__":
    elsewhere.serve(_answer)
