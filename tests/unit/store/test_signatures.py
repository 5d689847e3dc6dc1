"""A signature covers every file of a study, and counts only for a trusted key and for its own purpose."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.store.signatures import NAMESPACE, check_signature, sign, signature_path
from orchestrator.store.study import Study
from orchestrator.utils.errors import UserError
from tests.unit.stored import basin, store_sweep

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen (openssh-client) is missing"),
]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Return a folder with the keys `alice` and `mallory`, and the allowed signers `signers`, of whom alice is one."""
    folder = tmp_path / "keys"
    folder.mkdir()
    for name in ("alice", "mallory"):
        make_key(folder / name)
    (folder / "signers").write_text(f"alice@example.org {(folder / 'alice.pub').read_text()}")
    return folder


def make_key(path: Path, passphrase: str = "") -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", path], check=True)


@pytest.fixture
def study(tmp_path: Path, keys: Path) -> Path:
    """Return a study that alice has signed."""
    root = store_sweep(tmp_path / "studies", basin(0.3)).parents[1]
    assert main(["gate", str(root), "visage=60", f"sign={keys / 'alice'}"]) == 0
    return root


def findings(study: Path, keys: Path) -> dict[str, str]:
    """Return what `verify` finds wrong with the signature, by the file's place in the study."""
    signer, found = check_signature(study, signature_path(study), keys / "signers")
    assert signer == ("alice@example.org" if not found or found[0].path != signature_path(study) else None)
    return {finding.path.relative_to(study).as_posix(): finding.why for finding in found}


def test_a_signed_study_verifies_wherever_it_is_copied(
    study: Path, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "elsewhere" / study.name
    shutil.copytree(study, copied)
    capsys.readouterr()
    assert main(["verify", str(copied), f"signers={keys / 'signers'}"]) == 0
    assert "signed by" in (shown := capsys.readouterr().out) and "alice@example.org" in shown
    assert main(["verify", str(copied), f"verify.signers={keys / 'signers'}", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out).values()
    assert report["signer"] == "alice@example.org" and report["notes"] == []
    checked = subprocess.run(
        ["sha256sum", "-c", "signed/manifest.sha256"], cwd=copied, capture_output=True, check=False
    )
    assert checked.returncode == 0, "the manifest is what sha256sum reads"
    assert {line.partition("  ")[2] for line in (copied / "signed" / "manifest.sha256").read_text().splitlines()} == {
        path.relative_to(study).as_posix() for path in study.rglob("*") if path.is_file() and "signed" not in path.parts
    }


def test_each_changed_added_or_missing_file_is_named(study: Path, keys: Path) -> None:
    assert findings(study, keys) == {}
    (sweep,) = study.glob("sweeps/*")
    (part,) = study.glob("generations/*")
    summary = json.loads((sweep / "summary.json").read_text())
    (sweep / "summary.json").write_text(json.dumps(summary))  # the same numbers in other bytes
    part.unlink()
    (study / "generations" / "late.parquet").write_bytes(b"")
    (study / "notes").symlink_to("/etc")
    (sweep / "lease.json").write_text("{}")  # a driver that is running now
    assert findings(study, keys) == {
        f"{sweep.relative_to(study)}/summary.json": "was changed after the study was signed",
        f"generations/{part.name}": "was signed, and is missing",
        "generations/late.parquet": "was added after the study was signed",
        "notes": "was added after the study was signed",
    }
    assert main(["verify", str(study), f"signers={keys / 'signers'}"]) == 1


def test_a_changed_manifest_does_not_count(study: Path, keys: Path) -> None:
    manifest = study / "signed" / "manifest.sha256"
    manifest.write_bytes(manifest.read_bytes().replace(b"a", b"b", 1))
    (why,) = findings(study, keys).values()
    assert "it is no signature of alice@example.org on manifest.sha256" in why and "incorrect signature" in why


def test_another_key_does_not_count(study: Path, keys: Path) -> None:
    assert main(["gate", str(study), "visage=60", f"sign={keys / 'mallory'}"]) == 0
    (why,) = findings(study, keys).values()
    assert f"no key of {keys / 'signers'} has made it (No principal matched.)" in why


def test_another_namespace_does_not_count(study: Path, keys: Path) -> None:
    manifest = study / "signed" / "manifest.sha256"
    signature_path(study).unlink()
    command = ["ssh-keygen", "-Y", "sign", "-q", "-f", keys / "alice", "-n", "git", manifest]
    subprocess.run(command, check=True)
    (why,) = findings(study, keys).values()
    assert "namespace does not match" in why and NAMESPACE != "git"


def test_a_key_may_be_restricted_to_the_namespace(study: Path, keys: Path) -> None:
    public = (keys / "alice.pub").read_text()
    (keys / "signers").write_text(f'alice@example.org namespaces="git" {public}')
    (why,) = findings(study, keys).values()
    assert "not permitted for use in signature namespace" in why
    (keys / "signers").write_text(f'alice@example.org namespaces="{NAMESPACE}" {public}')
    assert findings(study, keys) == {}


def test_a_file_that_is_no_signature_does_not_count(study: Path, keys: Path) -> None:
    signature_path(study).write_text("signed, Alice")
    (why,) = findings(study, keys).values()
    assert "missing header" in why


def test_nothing_is_signed_that_fails_the_gate_or_does_not_verify(
    study: Path, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(study / "signed")
    sign = f"sign={keys / 'alice'}"
    assert main(["gate", str(study), "visage=99.9", sign]) == 1 and "the gate is not met" in caplog.text
    prompts, *_ = study.glob("prompts/*")
    (study / "directions").mkdir(exist_ok=True)
    shutil.copy(prompts, study / "directions" / "d.parquet")
    with open(study / "directions" / "d.parquet", "r+b") as file:
        file.truncate(50)
    assert main(["gate", str(study), "visage=60", sign]) == 1 and "see `verify`" in caplog.text
    assert not (study / "signed").exists()


def test_mistakes_are_one_sentence_and_exit_code_2(
    study: Path, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    signers = f"signers={keys / 'signers'}"
    (keys / "text").write_text("no key")
    calls = {
        f"gate.sign={keys / 'nobody'}: there is no such file": ["gate", "visage=60", f"sign={keys / 'nobody'}"],
        f"gate.sign={keys / 'text'}: ssh-keygen cannot sign with it": ["gate", "visage=60", f"sign={keys / 'text'}"],
        "verify.signers=nowhere: there is no such file": ["verify", "signers=nowhere"],
        "verify.signature=other.sig: there is no such file": ["verify", "signature=other.sig", signers],
        "verify.signature=a.sig: name the file with the keys that you trust too": ["verify", "signature=a.sig"],
    }
    for expected, (verb, *options) in calls.items():
        capsys.readouterr()
        assert main([verb, str(study), *options]) == 2
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1, error
    (study / "link.txt").symlink_to(keys / "alice.pub")
    assert main(["gate", str(study), "visage=60", f"sign={keys / 'alice'}"]) == 2
    assert "link.txt: is a link: remove it from the study" in capsys.readouterr().err
    store_sweep(tmp_path / "studies", basin(0.2), "second")
    assert main(["verify", str(tmp_path / "studies"), signers]) == 2
    assert "there are 2: name the study's folder" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    for verb, *options in (["gate", "visage=60", f"sign={keys / 'alice'}"], ["verify", signers]):
        assert main([verb, str(study), *options]) == 2
        assert "needs ssh-keygen (OpenSSH 8.2 or newer)" in capsys.readouterr().err


def test_a_key_with_a_passphrase_that_nobody_can_enter_is_refused(study: Path, keys: Path) -> None:
    make_key(keys / "locked", "secret")
    with pytest.raises(UserError, match=r"gate\.sign=.*cannot sign with it \(Load key"):
        sign(Study.open(study), keys / "locked")
