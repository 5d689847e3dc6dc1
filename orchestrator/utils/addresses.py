"""Addresses of buckets, such as `s3://bucket/studies`, and how the paths of their working copies are shown."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
"""The package with which fsspec serves addresses of each scheme."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_shown: dict[str, str] = {}


def scheme_of(text: str) -> str | None:
    """Return the scheme of an address, in lower case; None for a path."""
    match = _SCHEME.match(text)
    return None if match is None else match[1].lower()


def is_bucket(text: str) -> bool:
    """Return whether a text is the address of a bucket that can hold studies, rather than a path."""
    return scheme_of(text) in PACKAGES


def normalized(address: str) -> str:
    """Return an address without repeated and final slashes, its scheme in lower case."""
    scheme, _, rest = address.partition("://")
    return f"{scheme.lower()}://{'/'.join(part for part in rest.split('/') if part)}"


def show_as(folder: Path, address: str) -> None:
    """Let `shown` replace the path of a working copy by the address of its bucket."""
    _shown[str(folder)] = address


def shown(text: str) -> str:
    """Return a text for the user: addresses of buckets instead of the paths of their working copies."""
    for folder, address in _shown.items():
        text = text.replace(folder, address)
    return text
