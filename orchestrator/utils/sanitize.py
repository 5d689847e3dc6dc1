"""Keep what names and other people's texts contain from controlling the terminal.

Every text for a terminal goes through `SafeStream` or `SafeConsole` (safe_console.py). A control character appears
as an escape of four hexadecimal digits, as in JSON.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast

# Everything that is not text: control characters (a terminal executes some), separators of lines, overrides of the
# writing direction, and halves of characters, which cannot be encoded.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What progress bars of libraries write besides text: to the beginning of the line, over a line, and to the line above.
_BAR = re.compile(r"(?:\r *\r?|\n|\x1b\[A)*")


def sanitize(text: str) -> str:
    """Return a text with every character that could control a terminal, except line break and tab, as an escape."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class OutputError(OSError):
    """The terminal, pipe or file behind stdout or stderr cannot be written to."""


@contextlib.contextmanager
def naming_output() -> Iterator[None]:
    """Turn an OSError of a stream into OutputError, so that it is not taken for one of a study's files."""
    try:
        yield
    except OSError as error:
        raise OutputError(error.errno, error.strerror) from error


class OptionalStream:
    """A text stream for messages: what cannot be written, such as on a full disk or to a closed terminal, is lost.

    A command's results do not depend on its messages, so it does not end because of them.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text if that is possible."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is in the stream's buffer if that is possible."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def discard_rest(self) -> None:
        """Discard what is in the stream's buffer and cannot be written: Python would end with exit code 120."""
        try:
            self._stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class SafeStream:
    """A text stream that sanitizes what is written to it. Everything else is the wrapped stream's.

    An error of the wrapped stream is raised as OutputError. A character that the stream's encoding lacks becomes an
    escape too, instead of an error.

    Attributes:
        raw_stream: The wrapped stream.
    """

    def __init__(self, raw_stream: TextIO) -> None:
        self.raw_stream = raw_stream
        if isinstance(raw_stream, io.TextIOWrapper) and raw_stream.errors == "strict":
            raw_stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write a text, sanitized. A carriage return at its beginning and cursor movements without text are kept."""
        match = _BAR.match(text) if self.raw_stream.isatty() else None
        movement = match.group() if match else ""
        with naming_output():
            self.raw_stream.write(movement + sanitize(text[len(movement) :]))
        return len(text)

    def flush(self) -> None:
        """Write what is in the stream's buffer."""
        with naming_output():
            self.raw_stream.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts, sanitized."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw_stream, name)


def make_output_safe() -> None:
    """Sanitize what this process writes to `sys.stdout` and `sys.stderr` from now on, tracebacks included.

    What cannot be written to `sys.stderr` is lost, see `OptionalStream`.
    """
    if sys.stdout is not None and not isinstance(sys.stdout, SafeStream):
        sys.stdout = cast(TextIO, SafeStream(sys.stdout))
    if sys.stderr is not None and not isinstance(sys.stderr, SafeStream):
        sys.stderr = cast(TextIO, SafeStream(cast(TextIO, OptionalStream(sys.stderr))))


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """Sanitize what is written to `sys.stdout` and `sys.stderr` during the context."""
    before = sys.stdout, sys.stderr
    make_output_safe()
    messages = sys.stderr
    try:
        yield
    finally:
        if isinstance(messages, SafeStream) and isinstance(messages.raw_stream, OptionalStream):
            messages.raw_stream.discard_rest()
        sys.stdout, sys.stderr = before
