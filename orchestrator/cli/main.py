"""The entry point of the command line: find the verb, run it once or for every combination, return its exit code."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from orchestrator.cli.call import Call, parse
from orchestrator.cli.commands import VERBS
from orchestrator.cli.output import print_error_json
from orchestrator.utils import logs
from orchestrator.utils.addresses import shown
from orchestrator.utils.command_line import command_line
from orchestrator.utils.errors import ExitCode, SessionLostError, UserError, did_you_mean
from orchestrator.utils.sanitize import OutputError, make_output_safe, safe_output

MEASURING = {
    "ray",
    "torch",
    "transformers",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "datasets",
    "gguf",
    "accelerate",
    "numba",
    "pip",
}
"""The libraries of the extra `transformers`, which `cpu` and `gpu` contain. Verbs that only read studies need none."""


@safe_output()
def main(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code (see ExitCode)."""
    as_json = "--json" in arguments
    logs.configure()
    try:
        code = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, so that an error can be reported
        return code
    except UserError as error:
        return _report_mistake(error, as_json)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except SessionLostError as error:
        print(f"{error}; stored results are kept, and the same command resumes", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except OutputError as error:
        _discard_output()
        with contextlib.suppress(OutputError):
            print(f"error: stdout: the output cannot be written there ({error.strerror})", file=sys.stderr)
        return ExitCode.NOT_MET
    except Exception as error:
        from orchestrator.store.files import DamagedFileError  # heavy, and needed only here

        if not isinstance(error, DamagedFileError):
            raise
        print(f"error: {shown(str(error))}: `verify` says what can be done", file=sys.stderr)
        return ExitCode.NOT_MET


def _discard_output() -> None:
    """Let Python discard what it would still write to stdout at its exit, with a traceback."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: Sequence[str]) -> int:
    if {"--version", "-V"} & set(arguments):
        from importlib.metadata import version

        with _naming_missing_library("--version"):
            print(version("safety-landscape"))
        return ExitCode.COMPLETE
    if not arguments or arguments[0] == "help" or {"--help", "-h"} & set(arguments):
        with _naming_missing_library("help"):
            return _help(arguments)
    name, *rest = arguments
    if name not in VERBS:
        raise _no_such_verb(name)
    calls, is_multirun = parse(rest)
    logs.configure(getattr(logging, calls[0].log_level.upper()))
    if is_multirun:
        return _run_all(name, calls)
    return _run_verb(name, calls[0])


def _run_verb(name: str, call: Call) -> int:
    """Run a verb.

    Raises:
        UserError: A file or folder is closed to this user, or a library is not installed for this Python.
        PermissionError: Something else than a file is closed to this user.
    """
    with _naming_missing_library(name):
        try:
            if name in ("run", "plan", "geometry", "models") and find_spec("ray") is None:  # before anything is done
                raise ModuleNotFoundError(name="ray")
            return VERBS[name](call)
        except PermissionError as error:  # such as another user's folder
            if error.filename is None:
                raise
            remedy = f"cannot be used ({error.strerror}): name another one, or let its owner open it to you"
            raise UserError("path", error.filename, remedy) from error


@contextlib.contextmanager
def _naming_missing_library(name: str) -> Iterator[None]:
    """Raise UserError if a verb or flag needs a library that is not installed for this Python."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        is_bare = find_spec("hydra") is None  # this Python lacks what every verb needs
        if not is_bare and package not in MEASURING:
            raise
        remedy = f"needs {package}, which is not installed"
        if is_bare:
            way_out = "call .venv/bin/python, or `make setup`" if Path(".venv").is_dir() else "`make setup`"
            remedy += f" for {sys.executable}: {way_out}"
        else:
            from orchestrator.utils import nvidia

            extra = "gpu" if nvidia.gpus() else "cpu" if sys.platform == "linux" else "transformers"
            remedy += f": pip install 'safety-landscape[{extra}]', or `scripts/setup.sh` in a checkout"
        raise UserError("verb", name, remedy) from error


def _help(arguments: Sequence[str]) -> int:
    """Print the help of the verb that the arguments name, with the values of their overrides, or the overview."""
    from orchestrator.cli.help import overview, verb_help

    words = [argument for argument in arguments if argument not in ("--help", "-h")]
    if words[:1] == ["help"]:
        words = words[1:]
    if not words or words[0].startswith("-"):
        print(overview(VERBS))
        return ExitCode.COMPLETE if arguments else ExitCode.WRONG_INPUT
    name, *rest = words
    if name not in VERBS:
        raise _no_such_verb(name)
    (call, *_), _ = parse(rest)
    print(verb_help(name, VERBS[name], call.overrides, call.config_dir))
    return ExitCode.COMPLETE


def _no_such_verb(name: str) -> UserError:
    remedy = f"there is no such verb{did_you_mean(name, VERBS)} (there are: {', '.join(VERBS)})"
    return UserError("verb", name, remedy)


def _run_all(verb: str, calls: Sequence[Call]) -> int:
    """Run a verb for every combination of a multirun. Returns the worst exit code."""
    for call in calls:
        call.config  # noqa: B018 - a bad combination must be refused before the first has run for hours
    worst: int = ExitCode.COMPLETE
    for call in calls:
        print(f"-- {verb} {' '.join(call.overrides)}", file=sys.stderr)
        try:
            code = _run_verb(verb, call)
        except UserError as error:  # probably a mistake of this combination alone
            code = _report_mistake(error, call.json)
        worst = max(worst, code)
        if code == ExitCode.INTERRUPTED:
            break
    sweeps = list(dict.fromkeys(folder for call in calls for folder in call.sweeps))
    if len(sweeps) > 1:
        command = command_line("compare", *(shown(str(sweep)) for sweep in sweeps), "html=compared.html")
        print(f"Side by side, in one picture: {command}", file=sys.stderr)
    return worst


def _report_mistake(error: UserError, as_json: bool) -> int:
    with contextlib.suppress(OutputError):  # the exit code says it too
        if as_json:
            print_error_json(error)
        print(f"error: {error}", file=sys.stderr)
    return ExitCode.WRONG_INPUT


def entry() -> None:
    """Run the command line of this process (the console script)."""
    make_output_safe()  # for the whole process, because Python prints a traceback after `main`
    # Before numpy is imported. The matrices of adaptive grids are small, and threads that wait for each other while
    # actors work made their levels 40 times slower.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
