"""Working copies of studies in a bucket.

The bucket is the truth. Each machine has a working copy of the studies that it uses, in the user's cache, which is an
ordinary root of studies, so all other code reads and writes files there. `publish`, `remove` and `move` of `files.py`
change the bucket first and then the file, and `pull` brings in what other machines have changed. So a file that has its
final name in the working copy is in the bucket too, except for logs, which grow and are uploaded every few seconds.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.store.bucket import Bucket, StoredObject, open_bucket, server
from orchestrator.store.errors import StorageError
from orchestrator.utils.addresses import is_bucket, normalized, show_as
from orchestrator.utils.cache import cache_dir, write_json
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id
from orchestrator.utils.names import is_safe_name, safe_name
from orchestrator.utils.parsing import FormatError, read_json_object
from orchestrator.utils.paths import expanded
from orchestrator.utils.private import make_private

MARK = ".bucket"
"""The file in the root of a working copy that names the bucket."""

ETAGS = ".etags.json"
"""The file in the root of a working copy that names the ETag of each file. It can always be derived again."""

THREADS = 16
"""Number of objects that are downloaded at the same time."""

LEASES = "lease*.json"
"""Names of the files of leases in a sweep's folder: on the sweep, and on its parts."""

LEASE = re.compile(r"(?P<lease>(?:.*/)?lease(?:-\d+of\d+)?\.json)\.(?P<number>\d{9})")
"""Names of the objects of a lease, see `LeaseChain`."""

Signature = tuple[int, int, int]
"""Size, time of the last change in nanoseconds, and inode of a file."""


class WorkingCopy:
    """The files on this machine of the studies below an address.

    Attributes:
        root: The folder, which is a root of studies.
        bucket: The bucket.
    """

    def __init__(self, root: Path, bucket: Bucket) -> None:
        self.root = root
        self.bucket = bucket

    def pull(self, study: str = "") -> None:
        """Bring the files of a study, or of all studies, to the state of the bucket.

        Args:
            study: The name of the study's folder. Empty: all studies.

        Raises:
            StorageError: The bucket cannot be read.
        """
        studies = [study] if study else sorted({*self._studies(), *_folders(self.root)})
        for name in studies:
            self._pull(name)

    def upload(self, source: Path, target: Path) -> None:
        """Write a file to the bucket, under the name of `target`. Files that are not stored are left out."""
        if (name := self._name(target)) is not None:
            self.bucket.upload(source, name)

    def delete(self, path: Path) -> None:
        """Delete a file's object."""
        if (name := self._name(path)) is not None:
            self.bucket.delete(name)

    def has(self, path: Path) -> bool:
        """Return whether a file's object is in the bucket now."""
        name = self._name(path)
        return name is not None and self.bucket.exists(name)

    def restore(self, path: Path) -> bool:
        """Replace a file that does not verify with its object. Return False if the object has the same bytes."""
        name = self._name(path)
        if name is None:
            return False
        with self._temporary() as temporary:
            if not self.bucket.download(name, temporary):  # deleted by another machine
                path.unlink(missing_ok=True)
                return True
            with contextlib.suppress(OSError):
                if path.read_bytes() == temporary.read_bytes():
                    return False
            os.replace(temporary, path)
        return True

    def is_recorded(self, path: Path, seen: Signature) -> bool:
        """Return whether the last pull found this state of a file in the bucket."""
        return self._etags().get(self._name(path) or "", [])[1:] == list(seen)

    def leases(self, folder: Path) -> dict[str, int]:
        """Bring the leases of a sweep's folder to the state of the bucket.

        Returns:
            The highest number of each lease, by the lease's path relative to the root.
        """
        prefix = self._name(folder) or ""
        objects = {name: entry for name, entry in self.bucket.objects(prefix).items() if LEASE.fullmatch(name)}
        current = _current_leases(objects)
        held = {lease: name for lease, (name, entry) in current.items() if entry.size > 0}
        for path in folder.glob(LEASES):
            if self._name(path) not in held:
                path.unlink(missing_ok=True)
        for lease, name in held.items():
            self._download(name, self.root / lease, objects[name])
        return {lease: _number(name) for lease, (name, _) in current.items()}

    def _studies(self) -> list[str]:
        """Return the names of the folders in the bucket that are studies."""
        names = [name for name in self.bucket.folders() if is_safe_name(name) and not name.startswith(".")]
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            are_studies = list(pool.map(lambda name: self.bucket.exists(f"{name}/study.json"), names))
        return [name for name, is_study in zip(names, are_studies, strict=True) if is_study]

    def _pull(self, study: str) -> None:
        # The files are listed before the objects: one that has no object then is one that another machine has deleted,
        # and not one that a process of this machine has just uploaded.
        files = {name: found for name in self._files(study) if (found := file_signature(self.root / name)) is not None}
        objects = {name: entry for name, entry in self.bucket.objects(study).items() if _is_plain(name)}
        current = _current_leases(objects)
        objects = {name: entry for name, entry in objects.items() if not LEASE.fullmatch(name)}
        sources = {name: name for name in objects}
        for lease, (name, entry) in current.items():
            if entry.size > 0:  # an empty object says that the lease was released
                objects[lease], sources[lease] = entry, name
        etags = self._etags()
        fetched = [name for name, entry in objects.items() if not self._is_current(name, entry, files, etags)]
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda name: self._download(sources[name], self.root / name, objects[name]), fetched))
        for name, seen in files.items():
            is_being_written = is_appended(name) and etags.get(name, [])[1:] != list(seen)
            if name not in objects and not is_being_written:
                (self.root / name).unlink(missing_ok=True)
        self._write_etags(study, objects)

    def _is_current(
        self, name: str, entry: StoredObject, files: dict[str, Signature], etags: dict[str, list[Any]]
    ) -> bool:
        """Return whether a file has the content of its object, or is a log of which the object is an earlier state."""
        seen = files.get(name)
        if seen is None:
            return False
        if etags.get(name) == [entry.etag, *seen]:
            return True
        if is_appended(name):
            return seen[0] >= entry.size
        if seen[0] != entry.size:
            return False
        with contextlib.suppress(OSError):
            return hashlib.md5((self.root / name).read_bytes(), usedforsecurity=False).hexdigest() == entry.etag
        return False

    def _download(self, name: str, path: Path, entry: StoredObject) -> None:
        """Write an object to a file atomically, with the object's time. Does nothing if the object was deleted."""
        try:
            make_private(path.parent)
            with self._temporary() as temporary:
                if not self.bucket.download(name, temporary):
                    return
                if entry.modified is not None:
                    os.utime(temporary, (entry.modified, entry.modified))
                os.replace(temporary, path)
        except OSError as error:
            raise StorageError("out", path, f"cannot be written ({error.strerror or error})") from error

    def _etags(self) -> dict[str, list[Any]]:
        """Return the ETag and the signature of each file that had this ETag's content under that signature."""
        with contextlib.suppress(OSError, ValueError):
            document = json.loads((self.root / ETAGS).read_text(encoding="utf-8"))
            if isinstance(document, dict):
                return document
        return {}

    def _write_etags(self, study: str, objects: dict[str, StoredObject]) -> None:
        etags = {name: value for name, value in self._etags().items() if not name.startswith(f"{study}/")}
        for name, entry in objects.items():
            seen = file_signature(self.root / name)
            if seen is not None and seen[0] == entry.size:
                etags[name] = [entry.etag, *seen]
        write_json(self.root / ETAGS, etags)

    def _files(self, study: str) -> Iterator[str]:
        for folder, _, names in os.walk(self.root / study):
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink():
                    yield path.relative_to(self.root).as_posix()

    def _name(self, path: Path) -> str | None:
        """Return the name of a file's object; None for files that are not stored, such as temporary ones."""
        name = path.absolute().relative_to(self.root).as_posix()
        return None if name.startswith(".") else name

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        folder = self.root / ".tmp"
        make_private(folder)
        path = folder / uuid.uuid4().hex
        path.touch(mode=0o600)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


class LeaseChain:
    """A lease in a bucket: objects `lease.json.000000001`, `...2`, each of which is created only if there is none.

    The object with the highest number counts. The holder renews the lease by creating the next number. A driver that
    finds that number taken, or sees a higher one afterwards, has lost the lease. Numbers only grow: an empty object
    releases the lease, and all but the last KEPT objects are deleted. The server needs to support no more than
    exclusive creation, which works alike in all object stores.
    """

    KEPT = 3

    def __init__(self, copy: WorkingCopy, path: Path) -> None:
        self._copy = copy
        self._folder = path.parent
        self._lease = path.absolute().relative_to(copy.root).as_posix()
        self._last = 0

    def look(self) -> None:
        """Update the leases of the sweep in the working copy from the bucket."""
        self._last = self._copy.leases(self._folder).get(self._lease, 0)

    def append(self, content: bytes) -> bool:
        """Create the object after the last one that this process has seen. Return False if another one has done so."""
        number = self._last + 1
        bucket = self._copy.bucket
        if not bucket.create(self._object(number), content):
            return False
        numbers = [
            _number(name) for name in bucket.objects(str(PurePosixPath(self._lease).parent)) if self._is_own(name)
        ]
        if max(numbers, default=0) > number:  # the lower numbers were deleted meanwhile
            bucket.delete(self._object(number))
            return False
        self._last = number
        for old in sorted(numbers)[: -self.KEPT]:
            bucket.delete(self._object(old))
        return True

    def _object(self, number: int) -> str:
        return f"{self._lease}.{number:09d}"

    def _is_own(self, name: str) -> bool:
        match = LEASE.fullmatch(name)
        return match is not None and match["lease"] == self._lease


def working_copy(out: Path) -> WorkingCopy | None:
    """Return the working copy with this root; None if the root of studies is on a file system.

    Raises:
        StorageError: It is marked as a working copy, but this process would use another folder for that bucket: this
            one was copied, or belongs to another server.
    """
    mark = out / MARK
    if not mark.is_file():
        return None
    address = ""
    with contextlib.suppress(OSError, ValueError, FormatError):
        address = str(read_json_object(mark).get("address"))
    if not is_bucket(address) or out.absolute() != _root_of(address):
        remedy = (
            f"is marked as the working copy of a bucket by its file {MARK}, but not of one that this environment "
            "names: use the bucket's address, or remove that file if the folder is your own"
        )
        raise StorageError("out", out, remedy)
    return _open(out.absolute(), address, server())


def containing(path: Path) -> WorkingCopy | None:
    """Return the working copy that a file or folder is in; None if it is on a file system."""
    for folder in (path, *path.absolute().parents):
        if (folder / MARK).is_file():
            return working_copy(folder)
    return None


def pull(path: Path) -> None:
    """Bring a study, or all studies below a root, to the state of their bucket. Does nothing on a file system.

    Args:
        path: The root of studies, or a path in a study.

    Raises:
        StorageError: The bucket cannot be read.
    """
    if (copy := containing(path)) is not None:
        inside = path.absolute().relative_to(copy.root).parts
        copy.pull(inside[0] if inside else "")


def check_bucket(out: Path) -> None:
    """Check that a run can use the bucket of a working copy. Does nothing on a file system.

    Raises:
        UserError: Not so; the message says why.
    """
    if (copy := working_copy(out)) is not None:
        copy.bucket.check_usable()


def open_root(text: str) -> Path:
    """Return the root of studies that `out` names: a folder, or the working copy of a bucket. Reads no bucket.

    Raises:
        UserError: The working copy cannot be created.
    """
    if not is_bucket(text):
        return expanded(text)
    address = normalized(text)
    root = _root_of(address)
    try:
        make_private(root)
        if not (root / MARK).is_file() and not write_json(root / MARK, {"address": address}):
            raise OSError("not writable")
    except OSError as error:
        raise UserError("out", text, f"{root} cannot hold its working copy ({error.strerror or error})") from error
    show_as(root, address)
    return root


def open_path(text: str | os.PathLike[str]) -> Path:
    """Return the path of a root of studies, a study or a sweep: a path, or an address, of which the files are pulled.

    Raises:
        UserError: The bucket cannot be read.
    """
    if not isinstance(text, str) or not is_bucket(text):
        return expanded(text)
    address = normalized(text)
    scheme, _, rest = address.partition("://")
    name, *inside = rest.split("/")
    depth = 0  # at which the study is; 0 if the address is that of a root of studies
    if inside:
        bucket = open_bucket(f"{scheme}://{name}", server())
        depths = range(len(inside), max(0, len(inside) - 3), -1)  # a study, its folder of sweeps, or a sweep
        depth = next((d for d in depths if bucket.exists("/".join((*inside[:d], "study.json")))), 0)
    if depth:
        root = open_root(f"{scheme}://{'/'.join((name, *inside[: depth - 1]))}")
        path = root.joinpath(*inside[depth - 1 :])
    else:
        path = open_root(address)
    pull(path)
    return path


def is_appended(name: str) -> bool:
    """Return whether a file grows while one process writes it: events, logs, and files of trackers."""
    inside = PurePosixPath(name).parts[1:]
    return inside[:1] == ("events",) or (inside[:1] == ("sweeps",) and inside[2:3] in (("logs",), ("tracking",)))


def _root_of(address: str) -> Path:
    """Return the folder of the working copy of an address, for the server that the environment names."""
    scheme, _, rest = address.partition("://")
    name = f"{scheme}-{safe_name(rest.partition('/')[0])}-{content_id([address, server()])[:8]}"
    return (cache_dir() / "buckets" / name).absolute()


@functools.lru_cache(maxsize=16)
def _open(root: Path, address: str, server: str) -> WorkingCopy:
    show_as(root, address)
    return WorkingCopy(root, open_bucket(address, server))


def _folders(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _is_plain(name: str) -> bool:
    """Return whether an object's name stays in the working copy, and is none of its own files."""
    parts = name.split("/")
    return not name.startswith(".") and all(map(is_safe_name, parts))


def file_signature(path: Path) -> Signature | None:
    """Return the signature of a file; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def _current_leases(objects: dict[str, StoredObject]) -> dict[str, tuple[str, StoredObject]]:
    """Return, for each lease, the name of its object with the highest number, and the object."""
    current: dict[str, tuple[str, StoredObject]] = {}
    for name in sorted(objects):  # so that the last one counts: the numbers have leading zeros
        if (match := LEASE.fullmatch(name)) is not None:
            current[match["lease"]] = name, objects[name]
    return current


def _number(name: str) -> int:
    match = LEASE.fullmatch(name)
    return 0 if match is None else int(match["number"])
