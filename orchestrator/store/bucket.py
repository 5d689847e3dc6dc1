"""A bucket, or a folder in one, through fsspec: list, read, write, create exclusively, delete.

Credentials and endpoints come from the environment, as the provider's own tools read them; none is stored or shown.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.store.errors import StorageError
from orchestrator.utils.addresses import PACKAGES, scheme_of
from orchestrator.utils.errors import UserError

PROBE = ".probe-"
"""Prefix of the objects that `check_usable` creates and deletes."""

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_PROFILE")
"""Variables of the environment that decide which server an address of `s3://` names."""

REFUSED = (409, 412)
"""HTTP status of a creation that is refused: there is such an object, or another client is just creating it."""

NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "SSOTokenLoadError")
NOT_ALLOWED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AllAccessDisabled")


@dataclass(frozen=True)
class StoredObject:
    """An object as a listing shows it.

    Attributes:
        size: Its size in bytes.
        etag: Changes with its content. For many servers it is the MD5 of the content.
        modified: When it was written, in seconds since 1970 by the server's clock. None if unknown.
    """

    size: int
    etag: str
    modified: float | None


class Bucket:
    """The objects below an address. Names are relative to it. Safe to use from any thread.

    All methods raise StorageError if the bucket cannot be used. Requests that fail for a moment are repeated by the
    library, with growing pauses.

    Attributes:
        address: The address, such as `s3://bucket/studies`.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._fs = _file_system(address)
        self._root = address.partition("://")[2].strip("/")

    def objects(self, prefix: str = "") -> dict[str, StoredObject]:
        """Return all objects below a folder, by name."""
        with self._explained():
            found = self._fs.find(self._path(prefix), detail=True)
        return {self._name(path): _stored_object(info) for path, info in found.items() if info.get("type") == "file"}

    def folders(self) -> list[str]:
        """Return the names of the folders at the address itself."""
        with self._explained():
            try:
                entries = self._fs.ls(self._path(""), detail=True)
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return []
        return [self._name(entry["name"]) for entry in entries if entry["type"] == "directory"]

    def exists(self, name: str) -> bool:
        """Return whether there is an object of this name that may be read."""
        with self._explained():  # `isfile` of fsspec takes every error for the answer no
            try:
                return bool(self._fs.info(self._path(name))["type"] == "file")
            except PermissionError:  # keys may be for one folder, and its parents are asked about too
                return False
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return False

    def read(self, name: str) -> bytes | None:
        """Return the content of an object; None if there is none."""
        with self._explained():
            try:
                return bytes(self._fs.cat_file(self._path(name)))
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return None

    def download(self, name: str, target: Path) -> bool:
        """Write the content of an object to a file. Return False if there is no such object."""
        with self._explained():
            try:
                self._fs.get_file(self._path(name), str(target))
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return False
        return True

    def upload(self, source: Path, name: str) -> None:
        """Write a file as an object, which replaces an existing one at once: readers see the old one or the new one."""
        with self._explained():
            self._fs.put_file(str(source), self._path(name))

    def create(self, name: str, content: bytes) -> bool:
        """Write an object if there is none of this name. Return whether it was written.

        If the server's answer was lost, the library has repeated the request, and the object that exists may be the one
        that the first request has written. So an existing object with the same content counts as written.
        """
        try:
            self._create(name, content)
        except FileExistsError:
            return self.read(name) == content
        return True

    def delete(self, name: str) -> None:
        """Delete an object. It need not exist."""
        with self._explained(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def check_usable(self) -> None:
        """Check that objects can be listed, written and deleted, and that the server honors conditions.

        Raises:
            UserError: Not so; the message says why.
        """
        self.folders()
        name = f"{PROBE}{uuid.uuid4().hex}"
        self._create(name, b"first")
        try:
            self._create(name, b"second")
        except FileExistsError:
            return
        finally:
            self.delete(name)
        remedy = (
            "its server ignores the condition that an object be created only if there is none (If-None-Match), so two "
            "drivers could not be kept apart: use another store, or a folder"
        )
        raise UserError("out", self.address, remedy)

    def _create(self, name: str, content: bytes) -> None:
        """Write an object if there is none of this name. Raises FileExistsError if there is one."""
        exists = False
        with self._explained():
            try:
                self._fs.pipe_file(self._path(name), content, mode="create")
            except Exception as error:
                if not isinstance(error, FileExistsError) and _status(error) not in REFUSED:
                    raise
                exists = True
        if exists:
            raise FileExistsError(name)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _name(self, path: str) -> str:
        return path.strip("/").removeprefix(self._root).strip("/")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise StorageError, with the reason in one sentence, for whatever a file system of fsspec raises."""
        try:
            yield
        except Exception as error:  # each file system has errors of its own
            raise StorageError("out", self.address, _reason(error)) from error


def server() -> str:
    """Return what in the environment decides which server an address names. It never contains a secret."""
    return " ".join(os.environ.get(name, "") for name in ENDPOINTS)


@functools.lru_cache(maxsize=8)
def open_bucket(address: str, server: str) -> Bucket:
    """Return the bucket at an address. Its connections are shared by all who open it in this process.

    Args:
        address: The address.
        server: What `server` returns.
    """
    return Bucket(address)


def _file_system(address: str) -> Any:
    """Return the file system of fsspec that serves an address. Raises UserError if its package is not installed."""
    scheme = scheme_of(address) or ""
    package = PACKAGES[scheme]
    try:
        import fsspec

        return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        wanted = "'safety-landscape[s3]'" if scheme == "s3" else package
        remedy = f"needs the package {package}, which is not installed: pip install {wanted}"
        raise UserError("out", address, remedy) from error
    except Exception as error:  # such as missing credentials
        raise StorageError("out", address, _reason(error)) from error


def _stored_object(info: dict[str, Any]) -> StoredObject:
    modified = info.get("LastModified") or info.get("last_modified") or info.get("mtime") or info.get("created")
    seconds = modified.timestamp() if isinstance(modified, datetime.datetime) else None
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or f"{seconds} {info['size']}"
    return StoredObject(int(info["size"]), str(etag).strip('"'), seconds)


def _reason(error: BaseException) -> str:
    """Return why a bucket cannot be used, without anything from a message that might name a key."""
    code, kinds = _code(error), {type(link).__name__ for link in _chain(error)}
    if kinds & {*NO_CREDENTIALS}:
        return (
            "there are no credentials for it: export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in with your "
            "provider's own tool"
        )
    if code == "NoSuchBucket":
        return "there is no such bucket: create it first"
    if code in NOT_ALLOWED or isinstance(error, PermissionError) or _status(error) in (401, 403):
        return f"access is denied ({code or 'no permission'}): listing, reading, writing and deleting must be permitted"
    what = code or type(error).__name__
    return f"cannot be used at the moment ({what}): nothing stored was changed, and the same command continues"


def _code(error: BaseException) -> str | None:
    """Return the code of a server's answer that led to an error, such as `NoSuchBucket`."""
    answers = (getattr(link, "response", None) for link in _chain(error))
    codes = (answer.get("Error", {}).get("Code") for answer in answers if isinstance(answer, dict))
    return next((str(code) for code in codes if code), None)


def _status(error: BaseException) -> int | None:
    """Return the status of the server's answer that led to an error."""
    answers = (getattr(link, "response", None) for link in _chain(error))
    statuses = (a.get("ResponseMetadata", {}).get("HTTPStatusCode") for a in answers if isinstance(a, dict))
    return next((int(status) for status in statuses if status), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that caused it."""
    while error is not None:
        yield error
        error = error.__cause__
