"""The prompts of a sweep: probe sets, system prompts and sampling of a configuration."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Sequence

from orchestrator import judges
from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config, ProbesConfig, SystemPromptConfig
from orchestrator.models.resolve import ResolvedModel
from orchestrator.prompts.hub_datasets import is_fetched
from orchestrator.prompts.probe_sets import NoRowsLeftError, ProbeSet, load_probe_set, with_wrappers
from orchestrator.prompts.rendering import ARGS_FIELD, Switches, SystemPrompt, render_prompt_sets
from orchestrator.sweep.prompt_rendering import renderings
from orchestrator.sweep.tasks import MISSING_TEMPLATE, NO_TEMPLATE, PromptSet, Sampling
from orchestrator.sweep.thoughts import opened_tag
from orchestrator.utils.choices import GoalOver
from orchestrator.utils.errors import UserError

logger = logging.getLogger(__name__)

EARLY_STOP_GROUPS = ("harmful", "jailbreak")
"""Groups in which a refusal is the right response, and its first keyword decides the verdict."""


def load_blocks(config: Config, presets: Presets, blocks: int) -> list[list[ProbeSet]]:
    """Read the probe sets of each block, those of a block in the order of the configuration.

    Block k has the rows that follow those of block k - 1. A probe set whose rows end has fewer blocks than others, and
    blocks without any probes are left out.

    Args:
        config: The configuration.
        presets: The presets that it may name.
        blocks: The most blocks to read.

    Raises:
        UserError: An option is wrong, or a file cannot be read or has a prompt in two blocks; or goals over new probes
            would take blocks of a file in its own order for random samples.
    """
    if blocks > 1 and config.probes.limit is None:
        raise UserError("probes.limit", "null", "give the number of probes of each block")
    chosen = [(probes, set[str]()) for probes in probe_configs(config, presets)]
    loaded: list[list[ProbeSet]] = []
    for number in range(blocks):
        block: list[ProbeSet] = []
        for probes, seen in chosen:
            with contextlib.suppress(*([NoRowsLeftError] if number else [])):
                block += _load_block(probes, number, seen)
        if not block:
            break
        loaded.append(block)
    for probes, seen in chosen:
        count, requested = len(seen), (probes.limit or 0) * config.probes.blocks
        if count < requested:
            logger.info("prompts of %s: only %d of the %d that probes.limit requests", probes.name, count, requested)
    if config.until.over == GoalOver.both and len(loaded) > 1:
        for probe_set in loaded[1]:
            if not probe_set.is_in_random_order:
                remedy = f"takes blocks of rows for random samples, and {probe_set.name} is read in its file's order"
                raise UserError("until.over", "both", f"{remedy}: set probes.shuffle=0")
    return loaded


def _load_block(probes: ProbesConfig, number: int, seen: set[str]) -> list[ProbeSet]:
    """Return the probe sets of one block, from 0, of one preset, and add its prompts' ids to those of earlier blocks.

    Questions that repeat one of an earlier block are left out, as within a block. Raises UserError for other prompts.
    """
    block = probes
    if number:
        assert probes.limit is not None
        block = dataclasses.replace(probes, offset=probes.offset + number * probes.limit)
    probe_set = load_probe_set(block)
    new = tuple(prompt for prompt in probe_set.prompts if prompt.id not in seen)
    if len(new) < len(probe_set.prompts) and not probes.answers:
        repeated = next(prompt.text for prompt in probe_set.prompts if prompt.id in seen)
        remedy = f"has {repeated[:60]!r} in two blocks: set probes.skip_duplicates=true"
        raise UserError("probes.blocks", probe_set.name, remedy)
    seen.update(prompt.id for prompt in new)
    return with_wrappers(dataclasses.replace(probe_set, prompts=new), probes.wrappers) if new else []


def probe_configs(config: Config, presets: Presets) -> list[ProbesConfig]:
    """Return the options of each probe set, in the order of the configuration. Raises UserError."""
    if not config.probe_sets:
        return [config.probes]
    chosen = []
    for name in config.probe_sets:
        probes = presets.read("probes", name, ProbesConfig, "probe_sets")
        if probes.name == config.probes.name:
            probes = config.probes  # this one has the path and column of the command line
        probes.limit, probes.offset, probes.blocks = config.probes.limit, config.probes.offset, config.probes.blocks
        if probes.sample is None:
            probes.shuffle = config.probes.shuffle
        chosen.append(probes)
    return chosen


def is_to_download(probes: ProbesConfig) -> bool:
    """Return whether a probe set is a hub's data set that is not on this machine yet."""
    return probes.path is None and probes.hub is not None and not is_fetched(probes)


def load_system_prompts(config: Config, presets: Presets) -> list[SystemPrompt]:
    """Return the system prompts, in the order of the configuration. Raises UserError."""
    chosen = [config.system_prompt]
    if config.system_prompts:
        chosen = [
            presets.read("system_prompt", name, SystemPromptConfig, "system_prompts") for name in config.system_prompts
        ]
    return [SystemPrompt(prompt.name, prompt.text, prompt.template) for prompt in chosen]


def sampling_of(config: Config, probe_set: ProbeSet) -> Sampling:
    """Return the sampling options for responses to a probe set.

    Multiple choice takes one token. With `sampling.early_stop`, responses to requests that should be refused end at
    the primary judge's stop strings, unless the model may think (`render_prompt_sets`).
    """
    if probe_set.letters:
        return Sampling(1, (), probe_set.letters)
    stops: tuple[str, ...] = ()
    if config.sampling.early_stop and probe_set.group in EARLY_STOP_GROUPS:
        stops = judges.get(config.judge_names[0]).stops
    return Sampling(config.sampling.max_tokens, stops)


def template_switches(config: Config) -> Switches:
    """Return the switches of the chat template. Raises UserError for a wrong entry of `model.template_args`."""
    args = config.model.template_args
    if args and config.model.template == NO_TEMPLATE:
        raise UserError(ARGS_FIELD, f"[{','.join(args)}]", "sets a chat template, and model.template=none: drop one")
    return Switches.parse(config.model.thinking, args)


def render(
    config: Config, presets: Presets, probe_sets: Sequence[ProbeSet], model: ResolvedModel | None
) -> list[PromptSet]:
    """Render every probe set under every system prompt. `model` is None for the dummy engine. Raises UserError."""
    return render_prompt_sets(
        None if model is None else model.path,
        probe_sets,
        load_system_prompts(config, presets),
        lambda probe_set: sampling_of(config, probe_set),
        config.model.template,
        template_switches(config),
        config.model.thought,
    )


def warn_of_missing_template(prompt_sets: Sequence[PromptSet], model: str) -> None:
    """Log a warning if the model's prompts are bare text although nobody requested that."""
    if any(prompts.template == MISSING_TEMPLATE for prompts in prompt_sets):
        logger.warning(
            "%s has no chat template: its prompts are bare text. Name a template of data/templates with "
            "model.template=NAME, or request bare text with model.template=none",
            model,
        )


def warn_of_thoughts(prompt_sets: Sequence[PromptSet], thought: str) -> None:
    """Log whether responses may begin with a thought; as a warning if the chat template opens one.

    `thought`: the option `model.thought`.
    """
    opens = next((tag for tag in map(opened_tag, prompt_sets) if tag), "")
    thinking = next((prompts for prompts in prompt_sets if prompts.thought), None)
    if thinking is not None:
        logger.log(
            logging.WARNING if opens else logging.INFO,
            "the chat template %s: verdicts are about what follows %s. A response has at most sampling.max_tokens=%d "
            "tokens, its thought included; a thought without an end gets no verdict and is left out of ASR",
            "opens a thought" if opens else "has tags of thoughts, so that the model may think",
            thinking.thought,
            thinking.sampling.max_tokens,
        )
    elif opens:
        logger.warning(
            "the chat template opens a thought, and with model.thought=%s verdicts are about thoughts too; "
            "model.thought=auto judges what follows %s",
            thought,
            opens,
        )
    if any(prompts.sampling.letters and opened_tag(prompts) for prompts in prompt_sets):
        logger.warning("letters of multiple-choice questions are scored inside the thought that the template opens")


def log_rendering(prompt_sets: Sequence[PromptSet], thought: str = "") -> None:
    """Log how the prompts were rendered, with one example for each template and system prompt.

    `thought`: closing tag of the sweep's thoughts.
    """
    for rendering in renderings(prompt_sets, thought):
        logger.info("prompts of %s: %s", rendering.probe_set, rendering)


def without_duplicates(prompt_sets: Sequence[PromptSet]) -> list[PromptSet]:
    """Drop prompt sets that are equal to an earlier one, with a message.

    Two system prompts can render to the same text, such as no system message and the template's default if there is
    none.
    """
    first_of: dict[str, PromptSet] = {}
    for prompts in prompt_sets:
        first = first_of.setdefault(prompts.id, prompts)
        if first is not prompts:
            logger.info(
                "%s under %s is the same to this model as %s under %s: it is run once, under that name",
                prompts.probe_set,
                prompts.system_prompt,
                first.probe_set,
                first.system_prompt,
            )
    return list(first_of.values())
