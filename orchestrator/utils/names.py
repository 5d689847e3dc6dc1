"""Names of files and folders, made from users' text or read from stored documents."""

from __future__ import annotations

LONGEST = 246
"""Maximum bytes of a safe name: with `-` and eight digits of an id it is within the 255 bytes of a file's name."""


def safe_name(text: str) -> str:
    """Return the text as the name of one file or folder: no separators, no control characters, not too long.

    A text that is such a name already is returned unchanged, so that what was stored under it is found again. In other
    texts each disallowed character becomes a hyphen, and leading dots are left out.
    """
    name = "".join(char if char.isprintable() and char not in "/\\" else "-" for char in text)
    if name != text or name in ("", ".", ".."):
        name = name.lstrip(". -").rstrip(" -") or "unnamed"
    return name.encode()[:LONGEST].decode(errors="ignore")


def is_safe_name(name: str) -> bool:
    """Return whether a name is that of one file or folder, so that joining it to a folder stays in the folder."""
    return safe_name(name) == name


def job_name(text: str) -> str:
    """Return the text as a name without spaces and other characters that the options of a batch system cannot hold."""
    return "".join(char if char.isascii() and (char.isalnum() or char in "._+-") else "-" for char in safe_name(text))
