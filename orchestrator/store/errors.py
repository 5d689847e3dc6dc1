"""Errors of the place where studies are stored."""

from __future__ import annotations

from orchestrator.utils.errors import UserError


class StorageError(UserError):
    """A full or read-only disk, a missing permission, or a bucket that cannot be reached. Stored files are intact."""
