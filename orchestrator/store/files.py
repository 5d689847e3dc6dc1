"""Write files atomically, and read them only if they verify.

A file is written to `<out>/.tmp`, flushed, and renamed into place. A Parquet file has page checksums, and holds its row
count and a hash of its rows in its metadata. A JSON document holds its own hash. A file that does not verify raises
DamagedFileError.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import stat
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.store.errors import StorageError
from orchestrator.store.working_copy import containing, working_copy
from orchestrator.utils.choices import StudyMode
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id
from orchestrator.utils.parsing import parse_json_object, read_json_object, without_waiting
from orchestrator.utils.private import make_folder, private_folder, share_like

logger = logging.getLogger(__name__)

META = b"safety_landscape"
CHECK = "check"  # the key of a document's own hash
LENGTH_BYTES = 5  # most bytes of a 32-bit length in base 128
FOOTER = 4096  # number of bytes at the end of a part that are read at once
TMP = ".tmp"


class DamagedFileError(Exception):
    """A stored file does not verify."""


class MissingFileError(DamagedFileError):
    """There is no such file: it was never written, or has been merged into another."""


# Writing: to .tmp, to the disk, then renamed into place.


def publish(out: Path, target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file and rename it to `target`: readers see the old file or the new one.

    The file is open to those to whom its folder is open. In the working copy of a bucket, it is uploaded before.

    Raises:
        StorageError: The file cannot be written.
    """
    _check_no_links(out, target.parent)
    outer = sys.exception()
    temporary = out / TMP  # for the message below, if there can be none
    try:
        temporary = _temporary_folder(out) / f"{uuid.uuid4().hex}{target.suffix}"
        _make_folder(target.parent)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        write(temporary)
        share_like(temporary, target.parent)
        _flush(temporary)
        if (copy := working_copy(out)) is not None:
            copy.upload(temporary, target)  # first, so that what is here under its name is in the bucket
        os.replace(temporary, target)
        _flush(target.parent)
    except Exception as error:
        cause = _disk_error(error, outer)
        if cause is None:
            raise
        place = cause.filename2 or cause.filename or target  # a study in `out` may be another user's
        remedy = f"cannot write {place} ({cause.strerror or cause}); nothing stored was changed"
        raise StorageError("out", out, remedy) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove(out: Path, path: Path) -> None:
    """Delete a stored file, in the bucket first if there is one. It need not exist. Raises OSError or StorageError."""
    if (copy := working_copy(out)) is not None:
        copy.delete(path)
    path.unlink(missing_ok=True)


def move(out: Path, source: Path, target: Path) -> bool:
    """Move a stored file that does not verify, and return whether it was moved. Its target must not exist.

    In a working copy, the object is moved too, unless it differs: then only this machine's copy is damaged, and the
    object replaces it.

    Raises:
        OSError: The file is gone, or cannot be moved.
        StorageError: The bucket cannot be used.
    """
    copy = working_copy(out)
    if copy is not None and copy.restore(source):
        return False
    make_folder(target.parent)
    if copy is not None:
        copy.upload(source, target)
        copy.delete(source)
    os.replace(source, target)
    return True


def is_stored(out: Path, path: Path) -> bool:
    """Return whether a file is stored now: in the bucket, if there is one."""
    copy = working_copy(out)
    return path.is_file() if copy is None else copy.has(path)


def _disk_error(error: BaseException | None, outer: BaseException | None) -> OSError | None:
    """Return the error of the disk that led to `error`; None if it has another cause.

    A library that fails to write may raise another error while it cleans up, as matplotlib does with a PDF.

    Args:
        error: The exception that the writer raised.
        outer: The exception that was handled when the write began, which is not its cause.
    """
    while error is not None and error is not outer and not isinstance(error, (UserError, DamagedFileError)):
        if isinstance(error, OSError):
            return error
        error = error.__context__
    return None


def temporary_folders(out: Path) -> tuple[Path, Path]:
    """Return the folder of unfinished files, and the one that replaces it if it belongs to another user."""
    return out / TMP, out / f"{TMP}-{os.geteuid()}"


def _temporary_folder(out: Path) -> Path:
    """Create the folder of unfinished files and return it. It is open to those who may write to `out`.

    In a folder such as /tmp, which is open to all users but keeps their files apart, the owner of `.tmp` could replace
    what others write there. A user who does not own it then gets a private folder.
    """
    common, own = temporary_folders(out)
    if not common.is_symlink():
        _make_folder(out)
        if not out.stat().st_mode & 0o022:
            common.mkdir(mode=0o700, exist_ok=True)
        _make_folder(common)
        if common.stat().st_uid == os.geteuid() or not out.stat().st_mode & stat.S_ISVTX:
            return common
    return private_folder(own)


def create_study_folder(out: Path, root: Path, mode: StudyMode | Path) -> None:
    """Create the folder of a new study, and `out` if there is none.

    Args:
        out: The root of studies.
        root: The study's folder. If it exists, nothing is done.
        mode: To whom it is open, see `StudyMode`; or a folder, and it is open to those to whom that one is open.

    Raises:
        StorageError: The folder cannot be created.
    """
    if root.is_dir():
        return
    try:
        for folder in (*reversed([path for path in (out, *out.absolute().parents) if not path.is_dir()]), root):
            folder.mkdir(mode=0o777 if mode == StudyMode.shared else 0o700, exist_ok=True)
            if isinstance(mode, Path):
                share_like(folder, mode)
            elif mode == StudyMode.group:
                with contextlib.suppress(PermissionError):  # not a group of this user, whose own one then stays
                    os.chown(folder, -1, folder.parent.stat().st_gid)
                folder.chmod(0o2770)  # what is created in it belongs to its group
            _flush(folder.parent)
        if closed := root.stat().st_mode & 0o077 & ~out.stat().st_mode:
            logger.warning(
                "others cannot use the study, because %s is closed to them: chmod it to %o",
                out,
                stat.S_IMODE(out.stat().st_mode) | closed,
            )
    except OSError as error:
        raise StorageError("out", out, f"cannot hold a study ({error.strerror or error})") from error


def _check_no_links(out: Path, folder: Path) -> None:
    """Raise StorageError if a folder inside a study is a link: a study from elsewhere could redirect writes by it."""
    if not folder.is_relative_to(out):
        return
    inside = folder.relative_to(out).parts
    for depth in range(2, len(inside) + 1):  # the study's own folder may be a link that the user has made
        if (link := out.joinpath(*inside[:depth])).is_symlink():
            raise StorageError("out", link, "is a link inside a study, and nothing is written through it: remove it")


def _make_folder(path: Path) -> None:
    """Create a folder and its parents, flushed to the disk so that they survive a power failure.

    Each is open to those to whom its parent is open.
    """
    if not path.is_dir():
        _make_folder(path.parent)
        make_folder(path)
        _flush(path.parent)


def _flush(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_json(out: Path, target: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON document with its own hash, atomically."""
    publish(out, target, lambda path: path.write_bytes(json_bytes(value)))


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Return the content of a JSON document with its own hash."""
    return (json.dumps(_stamped(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def publish_table(out: Path, target: Path, table: pa.Table, meta: Mapping[str, Any]) -> None:
    """Write a Parquet file (zstd, page checksums) whose metadata holds its row count and content hash."""
    stamp = json.dumps(_stamped({**meta, "rows": table.num_rows, "content": table_hash(table)}), ensure_ascii=False)

    def write(path: Path) -> None:
        # No copy of the schema and no statistics: damage to them would go unnoticed.
        options = {"store_schema": False, "write_statistics": False, "use_dictionary": False}
        with (
            pa.OSFile(str(path), "wb") as sink,
            pq.ParquetWriter(
                sink, table.schema, compression="zstd", write_page_checksum=True, version="2.6", **options
            ) as file,
        ):
            file.write_table(table)
            file.add_key_value_metadata({META: stamp.encode()})

    publish(out, target, write)


def _stamped(value: Mapping[str, Any]) -> dict[str, Any]:
    unstamped = {key: item for key, item in value.items() if key != CHECK}
    return {**unstamped, CHECK: content_id(unstamped)}


def _unstamped(value: dict[str, Any]) -> dict[str, Any]:
    """Return a document without its hash. Raises ValueError if the hash does not match, KeyError if there is none."""
    stamp = value.pop(CHECK)
    if content_id(value) != stamp:
        raise ValueError("its metadata is not what was written")
    return value


def table_hash(table: pa.Table) -> str:
    """Return a hash of a table's column names and values, independent of its layout: 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name in table.column_names:
        digest.update(name.encode())
        for values in _canonical(table.column(name).combine_chunks()):
            digest.update(values)
    return digest.hexdigest()


_NOTHING = np.zeros(2, np.int64)


@functools.lru_cache(maxsize=64)
def _all_valid(n: int) -> bytes:
    return np.packbits(np.ones(n, bool)).tobytes()


def _canonical(array: pa.Array) -> Iterator[Any]:
    """Yield buffers that depend only on an array's values: which are null, how long each is, and the values."""
    kind, whole = array.type, array.null_count == 0
    yield _all_valid(len(array)) if whole else np.packbits(np.asarray(pc.is_valid(array)))
    if pa.types.is_list(kind) and array.null_count == len(array):  # mostly the case for `scores`
        yield bytes(4 * len(array))
        yield from _canonical(pa.array([], kind.value_type))
    elif pa.types.is_list(kind):
        yield np.asarray(pc.fill_null(pc.list_value_length(array), 0))
        yield from _canonical(array.flatten())
    elif pa.types.is_string(kind):
        array = array if whole else pc.fill_null(array, "")
        _, offsets, values = array.buffers()
        ends = np.frombuffer(offsets, np.int32, len(array) + 1, 4 * array.offset) if len(array) else _NOTHING
        yield ends[1:] - ends[:-1]
        yield memoryview(values or b"")[ends[0] : ends[-1]]
    else:
        if pa.types.is_timestamp(kind):
            array = array.cast(pa.int64())
        yield np.asarray(array if whole else pc.fill_null(array, False if pa.types.is_boolean(kind) else 0))


# Reading: a file that does not verify raises DamagedFileError, for whatever reason.


@contextlib.contextmanager
def translate_read_errors(path: Path) -> Iterator[None]:
    """Translate read errors: to MissingFileError, to StorageError if access fails, else to DamagedFileError."""
    try:
        yield
    except (DamagedFileError, StorageError):
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: no such file") from error
    except Exception as error:  # readers of damaged bytes raise all kinds of exceptions
        if isinstance(error, OSError) and error.errno is not None:
            raise StorageError("out", path, f"cannot be read ({error.strerror})") from error
        raise DamagedFileError(f"{path}: {error}") from error


_Read = TypeVar("_Read")


def _read_sound(path: Path, read: Callable[[], _Read]) -> _Read:
    """Return what `read` returns; if the file is a damaged working copy of a sound object, after restoring it."""
    try:
        return read()
    except MissingFileError:
        raise
    except DamagedFileError:
        copy = containing(path)
        if copy is None or not copy.restore(path):
            raise
        return read()


def read_meta(path: Path) -> dict[str, Any]:
    """Return the metadata of a stored Parquet file, from its last bytes alone. Raises DamagedFileError."""
    return _read_sound(path, lambda: _read_meta(path))


def _read_meta(path: Path) -> dict[str, Any]:
    with translate_read_errors(path):
        with open(path, "rb", buffering=0, opener=without_waiting) as file:
            size = os.fstat(file.fileno()).st_size
            tail = os.pread(file.fileno(), FOOTER, max(0, size - FOOTER))
            footer = int.from_bytes(tail[-8:-4], "little") + 8
            if tail[-4:] != b"PAR1" or footer > size:
                raise DamagedFileError(f"{path}: not a whole Parquet file")
            if footer > len(tail):
                tail = os.pread(file.fileno(), footer, size - footer)
        # Parsing the whole footer takes ten times as long, which matters when many parts are scanned. The metadata is
        # checked against its own hash, and every byte of the file is verified when its rows are read.
        return _unstamped(parse_json_object(_stamp_in(tail[-footer:])))


def _stamp_in(footer: bytes) -> bytes:
    """Return the value of the key META in a Parquet footer.

    Thrift's compact protocol writes a string as its length in base 128, then its bytes.
    """
    at = footer.index(META + b"\x18") + len(META) + 1
    length = shift = 0
    for byte in footer[at : at + LENGTH_BYTES]:
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return footer[at : at + length]
    raise ValueError("its footer names no length of its metadata")


def read_table(path: Path, schema: pa.Schema | None = None, meta: Mapping[str, Any] | None = None) -> pa.Table:
    """Return a stored table whose page checksums, number of rows and content hash verify.

    Args:
        path: The file.
        schema: The expected columns. None: any.
        meta: The file's metadata, if it is known already.

    Raises:
        DamagedFileError: The file does not verify.
    """
    return _read_sound(path, lambda: _read_table(path, schema, meta))


def _read_table(path: Path, schema: pa.Schema | None, meta: Mapping[str, Any] | None) -> pa.Table:
    meta = _read_meta(path) if meta is None else meta
    with translate_read_errors(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read(use_threads=False).replace_schema_metadata(None)
        rows, content = meta["rows"], meta["content"]
    if table.num_rows != rows:
        raise DamagedFileError(f"{path}: {table.num_rows} rows where {rows} were written")
    if schema is not None and not table.schema.equals(schema):
        raise DamagedFileError(f"{path}: not the expected columns")
    if table_hash(table) != content:
        raise DamagedFileError(f"{path}: its content is not what was written")
    return table


def read_json(path: Path) -> dict[str, Any]:
    """Return a stored JSON document. Raises DamagedFileError."""

    def read() -> dict[str, Any]:
        with translate_read_errors(path):
            return _unstamped(read_json_object(path))

    return _read_sound(path, read)


# The root of studies.


def check_writable(out: Path) -> None:
    """Raise UserError if `out` is a file, or a folder that cannot be made or written to. Changes nothing."""
    if out.exists() and not out.is_dir():
        raise UserError("out", out, "this is a file; name a folder for studies")
    existing = next(p for p in [out.absolute(), *out.absolute().parents] if p.exists())
    if not existing.is_dir():
        raise UserError("out", out, f"{existing} is a file; name a folder for studies")
    if os.statvfs(existing).f_flag & os.ST_RDONLY:
        raise UserError("out", out, "lies on a read-only file system; name a folder elsewhere")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError("out", out, "not writable; name a folder you may write to, or correct its permissions")


def check_owner(out: Path, root: Path, mode: StudyMode | Path) -> None:
    """Refuse a private study that belongs to another user, in a folder where every user may place one.

    Raises:
        UserError: See above. Any other mode accepts the study.
    """
    if mode == StudyMode.private and out.stat().st_mode & stat.S_ISVTX and root.stat().st_uid != os.geteuid():
        remedy = "belongs to another user, who can read and change what is stored in it: name another folder than "
        raise UserError("out", root, f"{remedy}{out}, or add study.mode=shared if you trust that user")
