"""Parse a command line into calls of one verb."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.utils.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from orchestrator.config.schema import Config

FLAGS = ("--json", "--multirun", "--config-dir", "--quiet", "--verbose", "--log-level", "--help", "--version")
SHORT_FLAGS = ("-m", "-q", "-v", "-h", "-V")
LEVELS = ("debug", "info", "warning", "error")
LEVEL_OF_FLAG = {"-q": "warning", "--quiet": "warning", "-v": "debug", "--verbose": "debug"}


@dataclass(frozen=True)
class Call:
    """One call of a verb.

    Attributes:
        overrides: Arguments of the form key=value.
        positional: All other arguments: folders and names.
        json: Print the result as JSON.
        config_dir: The user's own folder of presets, or None.
        log_level: The least level of messages to show, one of LEVELS.
        sweeps: Filled by `run`: the folders of the sweeps that have results.
    """

    overrides: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    json: bool = False
    config_dir: str | None = None
    log_level: str = "info"
    sweeps: list[Path] = dataclasses.field(default_factory=list, compare=False)

    @property
    def config(self) -> Config:
        """The configuration that the overrides give. Raises UserError."""
        from orchestrator.config.compose import compose

        return compose(self.overrides, self.config_dir)

    def check_only_overrides(self, verb: str) -> None:
        """Raise UserError if there is an argument that is not an override."""
        if self.positional:
            raise UserError(
                verb, self.positional[0], "takes overrides only, written key=value, such as model=mistral7b"
            )

    def folder(self, verb: str) -> Path:
        """Return the one folder that was named, or else the root of the studies. Raises UserError for several."""
        if len(self.positional) > 1:
            raise UserError(verb, " ".join(self.positional), "takes one folder")
        if not self.positional:
            from orchestrator.store.working_copy import open_path

            return open_path(self.config.out)
        return self.folders(verb)[0]

    def folders(self, verb: str) -> list[Path]:
        """Return all folders that were named. Those in a bucket are pulled. Raises UserError."""
        from orchestrator.config.overrides import check_path
        from orchestrator.store.working_copy import open_path

        for text in self.positional:
            check_path(verb, text, may_be_bucket=True)
        return [open_path(text) for text in self.positional]


def parse(arguments: Sequence[str]) -> tuple[list[Call], bool]:
    """Return the calls that a command line describes, one for each combination, and whether it is a multirun.

    Args:
        arguments: The arguments after the verb.

    Raises:
        UserError: An unknown flag, or one that lacks its value.
    """
    overrides: list[str] = []
    positional: list[str] = []
    config_dir: str | None = None
    log_level = "info"
    as_json = is_multirun = False
    waiting = iter(arguments)
    for argument in waiting:
        flag, _, value = argument.partition("=")
        if flag == "--config-dir":
            config_dir = value or next(waiting, None)
            if config_dir is None:
                raise UserError("--config-dir", "", "name a folder")
        elif flag == "--log-level":
            log_level = (value or next(waiting, "")).lower()
            if log_level not in LEVELS:
                raise UserError("--log-level", log_level, f"must be one of {', '.join(LEVELS)}")
        elif argument in LEVEL_OF_FLAG:
            log_level = LEVEL_OF_FLAG[argument]
        elif argument == "--json":
            as_json = True
        elif argument in ("-m", "--multirun"):
            is_multirun = True
        elif argument.startswith("-"):
            raise _unknown_flag(flag, value or next(waiting, ""))
        elif "=" in argument:
            overrides.append(argument)
        else:
            positional.append(argument)
    combinations = [overrides]
    if is_multirun:
        from orchestrator.config.overrides import multirun

        combinations = multirun(overrides)
    return [
        Call(tuple(combination), tuple(positional), as_json, config_dir, log_level) for combination in combinations
    ], is_multirun


def _unknown_flag(flag: str, value: str) -> UserError:
    """Return the error for a flag that does not exist; it may be an option, which is written without dashes."""
    from orchestrator.config.overrides import option_types
    from orchestrator.config.presets import GROUPS
    from orchestrator.config.schema import Config

    name = flag.lstrip("-").replace("-", "_")
    options = [*GROUPS, *option_types(Config)]
    matches = [option for option in options if option == name or option.endswith(f".{name}")]
    if not matches:
        return UserError("option", flag, f"there is no such option{did_you_mean(flag, FLAGS)}")
    shown = value if value and not value.startswith("-") else "VALUE"
    written = " or ".join(f"{option}={shown}" for option in matches)
    return UserError("option", flag, f"options are written without dashes: write {written}")
