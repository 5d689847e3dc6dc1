"""The only consoles of the program: Rich writes its own control sequences, and those of texts become visible."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from orchestrator.utils.sanitize import OutputError, SafeStream, naming_output, sanitize


class SafeConsole(Console):
    """A console that sanitizes all texts, and takes brackets in texts for text, not for markup.

    Args:
        file: The stream to write to. None: the current `sys.stdout`, or `sys.stderr` with `stderr`.
        stderr: Whether to write to `sys.stderr`.
        quiet: Whether to write nothing at all.
        plain: Whether to write plain lines even to a terminal or a notebook.
    """

    def __init__(
        self, file: IO[str] | None = None, stderr: bool = False, quiet: bool = False, plain: bool = False
    ) -> None:
        forced = False if plain else None
        super().__init__(
            file=file, stderr=stderr, quiet=quiet, markup=False, force_terminal=forced, force_jupyter=forced
        )

    @property
    def file(self) -> IO[str]:
        """The stream itself: a SafeStream would sanitize the console's own control sequences."""
        stream = Console.file.fget(self)  # type: ignore[attr-defined]
        return stream.raw_stream if isinstance(stream, SafeStream) else stream

    @file.setter
    def file(self, stream: IO[str]) -> None:
        self._file = stream

    def on_broken_pipe(self) -> None:
        """Raise OutputError, where Rich would end the program without a message."""
        raise OutputError(errno.EPIPE, os.strerror(errno.EPIPE))

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as Rich does. Raises OutputError if the stream cannot be written to, such as on a full disk."""
        with naming_output():
            super().print(*objects, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of a text or another renderable, sanitized."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else sanitize(segment.text)
            yield segment if text == segment.text else Segment(text, segment.style)
