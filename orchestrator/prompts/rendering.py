"""Render prompts to prompt sets: apply the model's chat template and tokenizer.

Templates and tokenizers run in a subprocess (`chat_templates`). Its results are kept in the user's cache, so that a
re-run starts no process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.prompts.chat_templates import (
    MEMORY_LIMIT,
    OWN_VARIABLES,
    TIME_LIMIT,
    TOKENIZER_TEMPLATE,
    bare_prompt,
    with_prefill,
)
from orchestrator.prompts.few_shot import Conversation
from orchestrator.prompts.probe_sets import ProbeSet
from orchestrator.sweep.tasks import NO_TEMPLATE, PromptSet, Sampling
from orchestrator.sweep.thoughts import AUTO, NEVER, can_think, opening_tag
from orchestrator.utils.cache import cache_dir, write_json
from orchestrator.utils.choices import Turns
from orchestrator.utils.errors import UserError, did_you_mean
from orchestrator.utils.hashing import content_id, file_sha256
from orchestrator.utils.parsing import FormatError, parse_json
from orchestrator.utils.paths import DATA_DIR
from orchestrator.utils.safetensors_header import INDEX_FILE
from orchestrator.utils.subprocesses import QUIET_TRANSFORMERS, MemoryLimitError, run_module

RENDER_VERSION = 6
"""Version of the rendered prompts in the cache: increase it with every change of their content."""

TEMPLATES = DATA_DIR / "templates"
TEMPLATE_FIELD, THOUGHT_FIELD, ARGS_FIELD = "model.template", "model.thought", "model.template_args"
TOKENIZER_SUFFIXES = (".json", ".jinja", ".model", ".txt")
"""Suffixes of the files from which a tokenizer may be made."""

DUMMY_VOCABULARY = 50_000
"""Number of different token ids of the dummy engine."""


@dataclass(frozen=True)
class SystemPrompt:
    """A system prompt.

    Attributes:
        name: The preset's name.
        text: The system message. None: no system message, so that the model's own default applies. "": an empty message
            that replaces the default.
        template: Name of a template to use instead of the model's, such as "none" for no template. None: the model's.
    """

    name: str
    text: str | None
    template: str | None = None


@dataclass(frozen=True)
class Switches:
    """Switches of a chat template.

    Attributes:
        thinking: Whether to ask for a thought before the answer, in templates that can (`enable_thinking` as in Qwen3,
            or `thinking`).
        args: Further variables of the template with their values, as JSON values; they take precedence. The template
            must read each of them.
    """

    thinking: bool = False
    args: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, thinking: bool, entries: Sequence[str]) -> Switches:
        """Return the switches of `model.thinking` and `model.template_args`.

        A value is read as JSON (true, 3, "a", [1]) if it is JSON, and else as text.

        Raises:
            UserError: An entry is not NAME=VALUE, repeats a name, or sets what the program sets itself.
        """
        args: dict[str, Any] = {}
        for entry in entries:
            name, sign, value = entry.partition("=")
            name = name.strip()
            if not sign or not name.isidentifier():
                raise UserError(ARGS_FIELD, entry, "write NAME=VALUE, such as reasoning_effort=low")
            if name in OWN_VARIABLES:
                raise UserError(ARGS_FIELD, entry, f"{name} is set by this program: leave it out")
            if name in args:
                raise UserError(ARGS_FIELD, entry, f"sets {name} again: give it once")
            try:
                args[name] = parse_json(value)
            except FormatError:
                args[name] = value
        return cls(thinking, tuple(args.items()))


@dataclass(frozen=True)
class RenderJob:
    """Conversations to render with one template.

    Attributes:
        conversations: The messages of each prompt.
        prefill: The beginning of each response.
        template: Name of the template.
        switches: Switches of the template.
        continuations: Texts that are one token each after a prompt, whose tokens are returned. The first prompt is used
            to find them, so all prompts must end in the same way.
    """

    conversations: tuple[Conversation, ...]
    prefill: str
    template: str
    switches: Switches = Switches()
    continuations: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Rendered:
    """The result of a job.

    Attributes:
        texts: The rendered prompts.
        token_ids: Their token ids.
        continuations: The token of each continuation.
        template: Source of the template.
        thought: Closing tag of the thoughts that the template mentions. Empty if it mentions none.
        special: The tokenizer's special tokens, which responses do not contain.
    """

    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    continuations: tuple[int, ...] = ()
    template: str = NO_TEMPLATE
    thought: str = ""
    special: tuple[str, ...] = ()


def render_prompt_sets(
    model_dir: Path | None,
    probe_sets: Sequence[ProbeSet],
    system_prompts: Sequence[SystemPrompt],
    sampling_of: Callable[[ProbeSet], Sampling],
    template: str = TOKENIZER_TEMPLATE,
    switches: Switches = Switches(),
    thought: str = AUTO,
) -> list[PromptSet]:
    r"""Render every probe set under every system prompt, in that order, for the model in a folder.

    Token ids are those of the rendered text. A tokenizer's own template writes its special tokens itself, and none
    are added; to a named template and to the bare text the tokenizer adds its own (such as <s>), but never an end
    of sequence. A template that refuses a system message, or leaves it out, gets it in the user's message:
    "SYSTEM\n\nUSER". Templates that insert the date get 26 July 2024. The beginning of the response (`prefill`)
    follows the prompt. Templates run in Jinja's sandbox, code of the model's repository is never run, and nothing
    is downloaded. A prompt's choices must be in its text. With solved examples (`ProbeSet.few_shot`) in plain text
    no template is applied, and the token of each letter after the prompt becomes part of the sampling. Prompts
    after which the model may think have no stop strings, because a thought often contains one, and if the tags of
    the thoughts are special tokens, they stay in the responses.

    Args:
        model_dir: The model's folder. None: the dummy engine, which gets bare text and one number for each word.
        probe_sets: The prompts.
        system_prompts: The system prompts.
        sampling_of: How responses to a probe set are drawn.
        template: "tokenizer", the chat template beside the tokenizer; a NAME of data/templates/NAME.jinja; or "none",
            the bare text "SYSTEM\n\nUSER". A tokenizer without a chat template gets the bare text too.
        switches: Switches of the templates. The dummy engine has no template, and ignores them.
        thought: Closing tag of thoughts; AUTO for the one that the template or the tokenizer's own template mentions;
            NEVER for none.

    Raises:
        UserError: An unknown template or switch, a tokenizer that does not load, or a prompt that cannot be rendered.
    """
    pairs = [(probes, system) for probes in probe_sets for system in system_prompts]
    jobs = [_job(probes, system, system.template or template, switches) for probes, system in pairs]
    sources = {job.template: template_source(job.template) for job in jobs}
    if model_dir is None:
        results = [_render_for_dummy(job) for job in jobs]
    else:
        results = _render_cached(model_dir, sources, jobs)
    return [
        _with_thought(
            PromptSet(
                probes.group,
                probes.prompts,
                rendered.texts,
                rendered.token_ids,
                dataclasses.replace(sampling_of(probes), letter_tokens=rendered.continuations),
                probe_set=probes.name,
                system_prompt=system.name,
                origin=probes.origin,
                template=rendered.template,
            ),
            rendered.thought if thought == AUTO else thought,
            rendered.special,
        )
        for (probes, system), rendered in zip(pairs, results, strict=True)
    ]


def _with_thought(prompts: PromptSet, closing: str, special: Sequence[str]) -> PromptSet:
    """Return a prompt set with the closing tag of its thoughts and no stop strings, if the model may think.

    Tags that are special tokens (`special`) stay in its responses.
    """
    if closing == NEVER or not can_think(prompts, closing):
        return prompts
    kept = tuple(tag for tag in (opening_tag(closing), closing) if tag is not None and tag in special)
    sampling = dataclasses.replace(prompts.sampling, stop=(), kept=kept)
    return dataclasses.replace(prompts, thought=closing, sampling=sampling)


def _job(probes: ProbeSet, system: SystemPrompt, template: str, switches: Switches) -> RenderJob:
    """Return the conversations of a probe set under a system prompt."""
    examples = probes.few_shot
    conversations = tuple(probes.conversation(system.text, prompt) for prompt in probes.prompts)
    if examples is None:
        return RenderJob(conversations, probes.prefill, template, switches)
    return RenderJob(
        conversations,
        probes.prefill,
        NO_TEMPLATE if examples.turns == Turns.plain else template,
        switches,
        tuple(map(examples.continuation, probes.letters)),
    )


def token_ids(model_dir: Path, texts: Sequence[str], template: str = TOKENIZER_TEMPLATE) -> tuple[tuple[int, ...], ...]:
    """Return the token ids of requests under the model's own system prompt, rendered as `render_prompt_sets` does."""
    job = RenderJob(tuple(Conversation(None, (text,)) for text in texts), "", template)
    (rendered,) = _render_cached(model_dir, {template: template_source(template)}, [job])
    return rendered.token_ids


def template_source(template: str) -> str | None:
    """Return the text of a named template; None for "tokenizer" and "none". Raises UserError for an unknown name."""
    if template in (TOKENIZER_TEMPLATE, NO_TEMPLATE):
        return None
    known = {file.stem: file for file in sorted(TEMPLATES.glob("*.jinja"))}
    if template not in known:
        names = [TOKENIZER_TEMPLATE, NO_TEMPLATE, *known]
        hint = did_you_mean(template, names)
        raise UserError(TEMPLATE_FIELD, template, f"is no template: they are {', '.join(names)}{hint}")
    return known[template].read_text(encoding="utf-8")


def _render_for_dummy(job: RenderJob) -> _Rendered:
    """Render for the dummy engine: bare text, one token for each word, the same on every machine."""

    def number(word: str) -> int:
        return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big") % DUMMY_VOCABULARY

    bare = (bare_prompt(conversation.system, "\n\n".join(conversation.turns)) for conversation in job.conversations)
    texts = tuple(with_prefill(text, job.prefill) for text in bare)
    ids = tuple(tuple(map(number, text.split())) for text in texts)
    return _Rendered(texts, ids, tuple(map(number, job.continuations)))


# The cache.


def _render_cached(folder: Path, sources: Mapping[str, str | None], jobs: Sequence[RenderJob]) -> list[_Rendered]:
    """Render the jobs for the tokenizer in a folder, starting a process only for those that are not in the cache.

    `sources`: template name -> its text, see `template_source`.
    """
    tokenizer = _tokenizer_id(folder)
    keys = [
        content_id([RENDER_VERSION, tokenizer, sources[job.template], job.template, *_job_json(job)]) for job in jobs
    ]
    cache = cache_dir() / "rendered"
    results = {key: cached for key in keys if (cached := _load(cache / f"{key}.json", key))}
    missing = {key: job for key, job in zip(keys, jobs, strict=True) if key not in results}
    for template in dict.fromkeys(job.template for job in missing.values()):
        batch = {key: job for key, job in missing.items() if job.template == template}
        rendered = run_jobs(folder, template, sources[template], list(batch.values()))
        for key, result in zip(batch, rendered, strict=True):
            results[key] = result
            _save(cache / f"{key}.json", key, result)
    return [results[key] for key in keys]


def _job_json(job: RenderJob) -> tuple[list[Any], str, list[Any], tuple[str, ...]]:
    """Return a job as the subprocess reads it."""
    return (
        [(conversation.system, conversation.turns) for conversation in job.conversations],
        job.prefill,
        [job.switches.thinking, dict(job.switches.args)],
        job.continuations,
    )


def _tokenizer_id(folder: Path) -> str:
    """Return a content hash of every file that a tokenizer may be made from, and of the libraries that make it."""
    try:
        files = sorted(
            file
            for directory in (folder, folder / "additional_chat_templates")
            for file in directory.glob("[!.]*")
            if file.suffix in TOKENIZER_SUFFIXES and file.name != INDEX_FILE and file.is_file()
        )
        hashes = [[file.relative_to(folder).as_posix(), file_sha256(file)] for file in files]
    except OSError as error:
        remedy = f"its tokenizer could not be read ({error.strerror or error}): give a readable folder"
        raise UserError("model.path", folder, remedy) from error
    libraries = [importlib.metadata.version(name) for name in ("transformers", "tokenizers", "jinja2")]
    return content_id([hashes, libraries])


def _load(file: Path, key: str) -> _Rendered | None:
    """Return the cached result of this key; None if there is none, or if it is damaged."""
    try:
        value = json.loads(file.read_bytes())
        names = ("rendered", "token_ids", "continuations", "template", "thought", "special")
        parts = [value[name] for name in names]
        if value["check"] != content_id([key, *parts]):
            return None
        texts, ids, continuations, template, thought, special = parts
        return _Rendered(tuple(texts), tuple(map(tuple, ids)), tuple(continuations), template, thought, tuple(special))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _save(file: Path, key: str, rendered: _Rendered) -> None:
    parts = {
        "rendered": rendered.texts,
        "token_ids": rendered.token_ids,
        "continuations": rendered.continuations,
        "template": rendered.template,
        "thought": rendered.thought,
        "special": rendered.special,
    }
    write_json(file, {"check": content_id([key, *parts.values()]), **parts})


# The subprocess.


def run_jobs(folder: Path, template: str, source: str | None, jobs: Sequence[RenderJob]) -> list[_Rendered]:
    """Render jobs of one template in a subprocess. Raises UserError, see `render_prompt_sets`."""
    request = {
        "folder": str(folder.absolute()),
        "template": template,
        "source": source,
        "jobs": [_job_json(job) for job in jobs],
    }
    response = _exchange(request)
    if reason := response.get("tokenizer"):
        remedy = f"its tokenizer does not load ({reason}): fetch the model again, with its tokenizer.json"
        raise UserError("model.path", folder, remedy)
    if "text" in response:
        problem = f"cannot render the prompt {response['text']!r} ({response['reason']})"
        raise UserError(TEMPLATE_FIELD, template, f"{problem}: leave it out, or set {TEMPLATE_FIELD}=none")
    if "switch" in response:
        name, known = response["switch"], response["known"]
        there = f"it reads {', '.join(known)}" if known else "it has no switches"
        remedy = f"the chat template does not read {name}{did_you_mean(name, known)} ({there}): correct it"
        raise UserError(ARGS_FIELD, name, remedy)
    if reason := response.get("continuation"):
        remedy = f"its tokenizer has no single token for each letter ({reason}): set probes.shots=null"
        raise UserError("model.path", folder, remedy)
    used, special = _source_name(template, response["file"]), tuple(response["special"])
    results = [
        _Rendered(tuple(texts), tuple(map(tuple, ids)), tuple(tokens), used, response["thought"], special)
        for texts, ids, tokens in response["results"]
    ]
    for job, result in zip(jobs, results, strict=True):
        for conversation, ids in zip(job.conversations, result.token_ids, strict=True):
            if not ids:
                raise UserError(
                    "probes", conversation.turns[-1], "is no token at all to this model's tokenizer: leave it out"
                )
    return results


def _source_name(template: str, file: str) -> str:
    """Return the source of a template (see `PromptSet.template`) from its name and from `template_file`."""
    if template == NO_TEMPLATE:
        return NO_TEMPLATE
    return file if template == TOKENIZER_TEMPLATE else f"data/templates/{template}.jinja"


def _exchange(request: dict[str, Any]) -> Any:
    try:
        return run_module("orchestrator.prompts.chat_templates", request, QUIET_TRANSFORMERS, TIME_LIMIT, MEMORY_LIMIT)
    except MemoryLimitError as error:
        remedy = f"{error}, with the tokenizer in {request['folder']}: set {TEMPLATE_FIELD}=none, or repair that folder"
        raise UserError(TEMPLATE_FIELD, request["template"], remedy) from error
    except subprocess.TimeoutExpired as error:
        remedy = f"did not render within {TIME_LIMIT:.0f} seconds: set {TEMPLATE_FIELD}=none"
        raise UserError(TEMPLATE_FIELD, request["template"], remedy) from error
