"""Scripts that complete verbs, options and presets in a shell.

The words are written into the script, so that completing starts no Python. Print it again after an upgrade.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from orchestrator import judges
from orchestrator.cli.call import FLAGS, SHORT_FLAGS
from orchestrator.config.overrides import alternatives, option_types
from orchestrator.config.presets import GROUPS, Presets
from orchestrator.config.schema import Config
from orchestrator.utils.errors import UserError, did_you_mean

PROGRAM = "safety-landscape"


@dataclasses.dataclass(frozen=True)
class Words:
    """The words that can be completed.

    Attributes:
        verbs: Names of the verbs.
        flags: Flags, such as `--json`.
        options: `key=` for every option and group of presets, and `key=value` where the values are known.
    """

    verbs: tuple[str, ...]
    flags: tuple[str, ...]
    options: tuple[str, ...]


def script(shell: str, verbs: Sequence[str], config_dir: str | None = None) -> str:
    """Return the completion script for a shell.

    Args:
        shell: bash, zsh or fish.
        verbs: Names of the verbs.
        config_dir: The user's own folder of presets, or None.

    Raises:
        UserError: There is no script for this shell.
    """
    if shell not in _SCRIPTS:
        remedy = f"must be one of {', '.join(_SCRIPTS)}{did_you_mean(shell, _SCRIPTS)}"
        raise UserError("completion", shell, remedy)
    return _SCRIPTS[shell](Words(tuple(verbs), (*FLAGS, *SHORT_FLAGS), tuple(_options(config_dir))))


def _options(config_dir: str | None) -> list[str]:
    presets = Presets(config_dir)
    result = [f"{group}={name}" for group in GROUPS for name in presets.options(group)]
    result += [f"judge={name}" for name in judges.names()]
    for key, kind in option_types(Config).items():
        values = _values(kind)
        result += [f"{key}={value}" for value in values] or [f"{key}="]
    return list(dict.fromkeys(result))


def _values(kind: Any) -> list[str]:
    """Return the values of an option that has few, otherwise an empty list."""
    for alternative in alternatives(kind):
        if alternative is bool:
            return ["true", "false"]
        if isinstance(alternative, type) and issubclass(alternative, Enum):
            return [member.name for member in alternative]
    return []


def _bash(words: Words) -> str:
    return f"""\
# Completion of {PROGRAM} for bash: add  eval "$({PROGRAM} completion bash)"  to ~/.bashrc
_safety_landscape() {{
    local line="${{COMP_LINE:0:COMP_POINT}}" current known
    current="${{line##* }}"
    if [[ "$line" == *" -"* && "$current" == -* ]]; then
        known="{" ".join(words.flags)}"
    elif [[ "${{line%"$current"}}" =~ ^[^\\ ]+\\ +(help\\ +)?$ ]]; then
        known="{" ".join(("help", *words.verbs))}"
    else
        known="{" ".join(words.options)}"
    fi
    local IFS=$' \\n'
    COMPREPLY=($(compgen -W "$known" -- "$current"))
    if [[ "$current" != *=* ]]; then  # complete the name first, then the value
        COMPREPLY=($(printf '%s\\n' "${{COMPREPLY[@]}}" | sed 's/=.*/=/' | sort -u))
    elif [[ "$COMP_WORDBREAKS" == *=* ]]; then  # the shell replaces only what follows the sign
        COMPREPLY=("${{COMPREPLY[@]#*=}}")
    fi
}}
complete -o nospace -o default -F _safety_landscape {PROGRAM}
"""


def _zsh(words: Words) -> str:
    return f"""\
#compdef {PROGRAM}
# Completion of {PROGRAM} for zsh: add  eval "$({PROGRAM} completion zsh)"  to ~/.zshrc, after compinit
_safety_landscape() {{
    local -a known
    if [[ "$PREFIX" == -* ]]; then
        known=({" ".join(words.flags)})
    elif (( CURRENT == 2 )) || [[ "$CURRENT" == 3 && "$words[2]" == help ]]; then
        known=({" ".join(("help", *words.verbs))})
    elif [[ "$PREFIX" == *=* ]]; then
        known=({" ".join(f"'{word}'" for word in words.options)})
    else
        known=({" ".join(dict.fromkeys(f"'{word.partition('=')[0]}='" for word in words.options))})
    fi
    compadd -S '' -- $known || _files
}}
compdef _safety_landscape {PROGRAM}
"""


def _fish(words: Words) -> str:
    names = " ".join(dict.fromkeys(f"{word.partition('=')[0]}=" for word in words.options))
    values = " ".join(f"'{word}'" for word in words.options if not word.endswith("="))
    return f"""\
# Completion of {PROGRAM} for fish: {PROGRAM} completion fish > ~/.config/fish/completions/{PROGRAM}.fish
function __safety_landscape_words
    set -l current (commandline -ct)
    set -l before (count (commandline -opc))
    if string match -q -- '-*' $current
        printf '%s\\n' {" ".join(words.flags)}
    else if test $before -eq 1
        printf '%s\\n' {" ".join(("help", *words.verbs))}
    else if string match -q '*=*' -- $current
        printf '%s\\n' {values}
    else
        printf '%s\\n' {names}
    end
end
complete -c {PROGRAM} -a '(__safety_landscape_words)'
"""


_SCRIPTS: Mapping[str, Callable[[Words], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
