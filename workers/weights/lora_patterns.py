"""Match the patterns of a LoRA adapter's configuration with module names, in a process of limited time and memory.

A pattern is a regular expression of a file that somebody else wrote, and Python's `re` may take exponential time for
one. A key that is only a name cannot, and is matched without a process.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from typing import Any, Final

from orchestrator.utils.subprocesses import MemoryLimitError, run_module, serve_module

TIME_LIMIT: Final = 10.0
"""Seconds that all patterns of an adapter may take for all its modules."""
MEMORY_LIMIT: Final = 1 << 30
_NAME: Final = re.compile(r"[\w.]*", re.ASCII)


class PatternError(ValueError):
    """A key is no regular expression, or the keys take too long; the message says which."""


def first_matches(keys: Sequence[str], modules: Sequence[str]) -> list[int | None]:
    """Return for each module the index of the first key that matches it, as `peft.utils.other.get_pattern_key` does.

    Args:
        keys: Regular expressions for whole names of modules, or for their last parts.
        modules: Names of modules.

    Returns:
        One index per module; None if no key matches it.

    Raises:
        PatternError: A key is no regular expression, or matching takes more than TIME_LIMIT or MEMORY_LIMIT.
    """
    if all(_NAME.fullmatch(key) for key in keys):
        return _match({"keys": keys, "modules": modules})["first"]
    request = {"keys": list(keys), "modules": list(modules)}
    try:
        response = run_module("workers.weights.lora_patterns", request, {}, TIME_LIMIT, MEMORY_LIMIT)
    except subprocess.TimeoutExpired:
        raise PatternError(f"has regular expressions that take longer than {TIME_LIMIT:g} s") from None
    except MemoryLimitError:
        raise PatternError(f"has regular expressions that take more than {MEMORY_LIMIT >> 30} GiB") from None
    if response["error"] is not None:
        raise PatternError(response["error"])
    return response["first"]


def _match(request: dict[str, Any]) -> dict[str, Any]:
    """Return {"first": what `first_matches` returns, "error": None}, or as "error" which key is no expression."""
    compiled = []
    for key in request["keys"]:
        try:
            compiled.append(re.compile(rf"(.*\.)?({key})$"))
        except (re.error, OverflowError, RecursionError) as error:
            return {"first": [], "error": f"has {key!r}, which is no regular expression ({error})"}
    first = [
        next((i for i, pattern in enumerate(compiled) if pattern.match(module)), None) for module in request["modules"]
    ]
    return {"first": first, "error": None}


if __name__ == "__main__":
    serve_module(_match)
