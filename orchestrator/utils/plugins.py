"""Load code of users: a file that an option names, or an entry point of an installed package.

What is loaded is identified by the SHA-256 of its file, so that results made by different code are not mixed.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.abc
import importlib.metadata
import importlib.util
import sys
import traceback
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.utils.errors import UserError


@dataclass(frozen=True)
class Plugin:
    """An object that a user's code defines.

    Attributes:
        value: The object.
        origin: What to call its source in messages: a path, or the name of an entry point's package.
        sha256: Hash of the file that defines it: 64 hexadecimal digits.
    """

    value: Any
    origin: str
    sha256: str


class _BytesLoader(importlib.abc.SourceLoader):
    """Run exactly the bytes that were hashed, and write no byte code beside the user's file."""

    def __init__(self, path: Path, source: bytes) -> None:
        self._path = path
        self._source = source

    def get_filename(self, fullname: str) -> str:
        """Return the path of the file."""
        return str(self._path)

    def get_data(self, path: str | bytes) -> bytes:
        """Return the source."""
        return self._source


def load_file(path: Path, attribute: str, field: str) -> Plugin:
    """Run a Python file and return what it defines under a name.

    Args:
        path: The file.
        attribute: The name, such as JUDGE.
        field: The option that names the file, for errors.

    Raises:
        UserError: The file cannot be read, raises an exception, or does not define the name.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(field, path, f"cannot be read ({error.strerror}): name a Python file") from error
    sha256 = hashlib.sha256(source).hexdigest()
    name, loader = f"safety_landscape_plugin_{sha256[:16]}", _BytesLoader(path, source)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up the module of a class there
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(field, path, f"raises {described(error, str(path))} when it is imported: mend it") from error
    if not hasattr(module, attribute):
        raise UserError(field, path, f"defines no {attribute}: end it with `{attribute} = ...`")
    return Plugin(getattr(module, attribute), str(path), sha256)


@functools.cache
def installed(group: str) -> Mapping[str, importlib.metadata.EntryPoint]:
    """Return the entry points of a group that installed packages declare, by name."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=group)}


@functools.cache
def load_installed(group: str, name: str, attribute: str) -> Plugin:
    """Import an entry point and return the object that it names, or that its module defines under a name.

    Its module is then among those of `loaded_modules`.

    Args:
        group: Group of the entry point.
        name: Name of the entry point.
        attribute: The name of the object, if the entry point names a module.

    Raises:
        UserError: The import raises an exception, or there is no such object. The message names the package.
    """
    entry = installed(group)[name]
    package = entry.dist.name if entry.dist is not None else entry.module
    try:
        value = entry.load()
    except (Exception, SystemExit) as error:
        file = _file_of(error)
        what = f"raises {described(error, file)}{f' of {file}' if file else ''} when it is imported"
        raise UserError(f"entry point {name}", entry.value, f"{what}: mend or remove the package {package}") from error
    if isinstance(value, types.ModuleType):
        if not hasattr(value, attribute):
            remedy = f"the package {package} defines no {attribute} there: write {name} = 'MODULE:{attribute}'"
            raise UserError(f"entry point {name}", entry.value, remedy)
        value = getattr(value, attribute)
    module = sys.modules[entry.module]
    assert module.__file__ is not None, f"{entry.module} has no file"
    _loaded.setdefault(group, []).append(module)
    return Plugin(value, package, hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest())


_loaded: dict[str, list[types.ModuleType]] = {}


def loaded_modules(group: str) -> Sequence[types.ModuleType]:
    """Return the modules of the entry points of a group that this process has loaded and not dropped since."""
    return tuple(module for module in _loaded.get(group, ()) if sys.modules.get(module.__name__) is module)


def _file_of(error: BaseException) -> str | None:
    """Return the file in which an import failed. None if it failed in no file, as for a module that does not exist."""
    if isinstance(error, SyntaxError):
        return error.filename
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [file for file in files if not file.startswith("<frozen") and "importlib" not in Path(file).parts]
    return own[-1] if own else None


def described(error: BaseException, file: str | None = None) -> str:
    """Return type and text of an exception, and the line of the file in which it was raised."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
    place = "" if line is None else f" in line {line}"
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    return f"{type(error).__name__}{f' ({text})' if text else ''}{place}"
