"""Sign a study with an SSH key, and check such a signature, by OpenSSH's `ssh-keygen -Y`.

What is signed is a manifest: the SHA-256 of every file of the study, in the format of `sha256sum`. It and the signature
are kept in the folder `signed` of the study. All cryptography is that of ssh-keygen.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from orchestrator.store.files import publish
from orchestrator.store.study import Study
from orchestrator.store.tracking_log import TRACKING
from orchestrator.store.verification import SIGNED, DamageFinding
from orchestrator.store.working_copy import LEASES
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import file_sha256

NAMESPACE = "study@safety-landscape"
"""Namespace of the signatures (`ssh-keygen -n`): a signature that was made for something else does not count."""

MANIFEST, SUFFIX = "manifest.sha256", ".sig"
SIGN_FIELD, SIGNATURE_FIELD, SIGNERS_FIELD = "gate.sign", "verify.signature", "verify.signers"
_LINK = "a link"  # in place of the hash of a file that no manifest can cover
_REMEDY = "get the study from its signer again, or let it be signed again"


def signature_path(root: Path) -> Path:
    """Return the path of a study's signature."""
    return root / SIGNED / f"{MANIFEST}{SUFFIX}"


def check_key(key: Path) -> None:
    """Raise UserError (gate.sign) if there is no such key, or no ssh-keygen to sign with it."""
    _program(SIGN_FIELD, key)
    if not key.is_file():
        remedy = "there is no such file: name an SSH key (`ssh-keygen -t ed25519 -f KEY` makes one)"
        raise UserError(SIGN_FIELD, key, remedy)


def sign(study: Study, key: Path) -> Path:
    """Sign all files of a study, and return the path of the signature. ssh-keygen may ask for the key's passphrase.

    Raises:
        UserError: There is no ssh-keygen, it cannot sign with this key, or a file cannot be covered (gate.sign).
    """
    hashes = _hashes(study.root)
    for name, value in hashes.items():
        if value == _LINK or not name.isprintable() or "\\" in name:
            problem = "is a link" if value == _LINK else "has a name that no manifest can hold"
            raise UserError(SIGN_FIELD, study.root / name, f"{problem}: remove it from the study")
    manifest = "".join(f"{value}  {name}\n" for name, value in hashes.items()).encode()
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, MANIFEST)
        copy.write_bytes(manifest)
        done = _run(SIGN_FIELD, key, ["sign", "-q", "-f", key, "-n", NAMESPACE, copy])
        if done.returncode != 0:
            raise UserError(SIGN_FIELD, key, f"ssh-keygen cannot sign with it ({_reason(done)}): name an SSH key")
        signature = copy.with_name(f"{MANIFEST}{SUFFIX}").read_bytes()
    target = signature_path(study.root)
    publish(study.out, target.with_name(MANIFEST), lambda path: path.write_bytes(manifest))
    publish(study.out, target, lambda path: path.write_bytes(signature))
    return target


def check_signature(root: Path, signature: Path, signers: Path) -> tuple[str | None, list[DamageFinding]]:
    """Check the signature of a study, and every file of the study against what was signed.

    Args:
        root: The study's folder.
        signature: The signature. The manifest is the file beside it, without `.sig`.
        signers: Who may sign: a file in the format of ssh-keygen's ALLOWED SIGNERS.

    Returns:
        The signer's name in `signers`, None if the signature does not count; and what is not as it was signed.

    Raises:
        UserError: A file is missing, or there is no ssh-keygen (verify.signature, verify.signers).
    """
    _program(SIGNATURE_FIELD, signature)
    manifest = signature.with_name(signature.name.removesuffix(SUFFIX))
    for field, path in ((SIGNATURE_FIELD, signature), (SIGNATURE_FIELD, manifest), (SIGNERS_FIELD, signers)):
        if not path.is_file():
            made = "list the signers whom you trust in one" if field == SIGNERS_FIELD else "`gate sign=KEY` writes it"
            raise UserError(field, path, f"there is no such file: {made}")
    content = manifest.read_bytes()
    found = _run(SIGNATURE_FIELD, signature, ["find-principals", "-s", signature, "-f", signers])
    why = f"no key of {signers} has made it ({_reason(found)})"
    for signer in found.stdout.decode(errors="replace").splitlines() if found.returncode == 0 else ():
        arguments = ["verify", "-f", signers, "-I", signer, "-n", NAMESPACE, "-s", signature]
        done = _run(SIGNATURE_FIELD, signature, arguments, content)
        if done.returncode == 0:
            return signer, _compare(root, _parse(content))
        why = f"it is no signature of {signer} on {manifest.name} ({_reason(done)})"
    return None, [DamageFinding(signature, why, _REMEDY)]


def _parse(manifest: bytes) -> dict[str, str]:
    """Return file -> SHA-256 of a manifest whose signature counts."""
    lines = (line.partition("  ") for line in manifest.decode(errors="replace").split("\n") if line)
    return {name: value for value, _, name in lines}


def _compare(root: Path, signed: dict[str, str]) -> list[DamageFinding]:
    current = _hashes(root)
    findings = []
    for name in sorted(signed.keys() | current.keys()):
        if name not in current:
            why = "was signed, and is missing"
        elif name not in signed:
            why = "was added after the study was signed"
        elif current[name] != signed[name]:
            why = "was changed after the study was signed"
        else:
            continue
        findings.append(DamageFinding(root / name, why, _REMEDY))
    return findings


def _hashes(root: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a study, by its name, sorted.

    Left out are signatures, leases and the folders of experiment trackers: a lease says which driver runs a sweep now,
    and a tracker's files what another program has received. Neither is part of what was measured.
    """
    hashes = {}
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        is_lease = len(inside.parts) == 3 and inside.parts[0] == "sweeps" and path.match(LEASES)
        is_tracking = inside.parts[0] == "sweeps" and inside.parts[2:3] == (TRACKING,)
        if is_tracking:
            continue
        if path.is_symlink():
            hashes[inside.as_posix()] = _LINK
        elif path.is_file() and inside.parts[0] != SIGNED and not is_lease:
            hashes[inside.as_posix()] = file_sha256(path)
    return hashes


def _program(field: str, value: Path) -> str:
    """Return the path of ssh-keygen. Raises UserError (`field`) if there is none."""
    program = shutil.which("ssh-keygen")
    if program is None:
        remedy = "needs ssh-keygen (OpenSSH 8.2 or newer), which is not on this machine: install openssh-client"
        raise UserError(field, value, remedy)
    return program


def _run(
    field: str, value: Path, arguments: Sequence[object], stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run `ssh-keygen -Y` with these arguments. Without `stdin` it reads that of this process, for a passphrase."""
    command = [_program(field, value), "-Y", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the first line of ssh-keygen's error output."""
    lines = done.stderr.decode(errors="replace").removeprefix("Enter passphrase: ").splitlines()
    return lines[0].strip() if lines else f"exit code {done.returncode}"
