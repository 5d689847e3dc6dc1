"""Remove what identifies a machine and its users from error messages that are stored."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_NAME = r"[^/\s\"'`,;:()<>\[\]{}=]+"
_PATH = re.compile(rf"""(?<=")/[^"\n]*/[^"\n]*(?=")|(?<=')/[^'\n]*/[^'\n]*(?=')|(?<![\w./:~-])~?(?:/{_NAME}){{2,}}/?""")
"""Absolute paths of two or more names. Only in quotes may they hold spaces. Addresses of the web are left alone."""

_PACKAGES = re.compile(r".*/(?:(?:site|dist)-packages|python3\.\d+)/")
"""The folders of installed packages and of Python itself, whose names tell nothing about the error."""

_PROJECT = f"{Path(__file__).parents[2]}/"
_IP = re.compile(r"(?<![\w.])(?!127\.)\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")


def redact(text: str, hosts: Iterable[str] = ()) -> str:
    """Return an error message without folders, names of hosts and IP addresses.

    A path of this project or of a package keeps its part below the project or package, any other its last name:
    `"/opt/ann/venv/lib/python3.12/site-packages/vllm/v1/core.py"` becomes `"vllm/v1/core.py"`, and
    `/data/ann/model/config.json` becomes `.../config.json`.

    Args:
        text: The message, for example a traceback.
        hosts: Names of hosts, each of which becomes `HOST`.
    """
    text = _PATH.sub(lambda match: _shortened(match[0]), text)
    for host in hosts:
        if len(host) > 1 and host != "localhost":
            text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w])", "HOST", text)
    return _IP.sub("ADDRESS", text)


def _shortened(path: str) -> str:
    if installed := _PACKAGES.match(path):
        return path[installed.end() :]
    if path.startswith(_PROJECT):
        return path.removeprefix(_PROJECT)
    return f".../{path.rstrip('/').rpartition('/')[2]}"
