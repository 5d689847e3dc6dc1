"""The requests behind the study in tests/data/study_3b5b360, and functions that collect the output of commands on it.

`OBSERVED` was called with commit 3b5b360 to write the expected files, and test_old_study.py calls it with the current
code. Everything goes through the command line or `load_study`, so that it does not depend on how modules are laid out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from tests.e2e import preloaded

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "study_3b5b360"

_COMMON = ("out=stored", "probes.limit=4", "sampling.max_tokens=12")
_EARLY = (*_COMMON, "sampling.early_stop=true")
REQUESTS: dict[str, tuple[str, ...]] = {
    "line": (
        *_EARLY, "name=line", "grid.directions=2", "grid.steps=8",
        "probe_sets=[harmful,benign,jailbreak_prefill,capability_choice,capability_exact]",
    ),
    "plane": (*_EARLY, "name=plane", "grid=random_2d", "grid.steps=2"),
    "adapter": (
        *_COMMON, "name=adapter", "grid=interpolate_1d", "grid.towards=[adapter]", "grid.range=[0,1]", "grid.steps=2",
        "sampling.early_stop=false", "judges=[keyword,keyword_plus,harmbench_llama2]", "judging.path=judge",
        "judging.dtype=float32",
    ),
    "given_up": (*_EARLY, "name=given_up", "grid.steps=8", "system_prompt=safety", "cluster.max_attempts=2"),
}  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator", *arguments]


def environment() -> dict[str, str]:
    """Return an environment that runs this checkout, not an installed package, and prints tables in full width."""
    return os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a copy of the study. Paths are relative, so that output does not depend on where it is."""
    return preloaded.server().run(list(arguments), folder, environment(), timeout=300)


def sweeps(folder: Path) -> dict[str, Path]:
    """Return the sweeps' folders, relative to the copy, by the name in the request."""
    paths = sorted(folder.glob("stored/*/sweeps/*"))
    return {path.name.rpartition("-")[0]: path.relative_to(folder) for path in paths}


def study(folder: Path) -> Path:
    """Return the folder of the measured model's study. The study of the model judge's answers is next to it."""
    return folder / sweeps(folder)["line"].parents[1]


def meta(path: Path) -> dict[str, Any]:
    """Return the JSON document in the footer of a stored Parquet file."""
    return json.loads(pq.read_schema(path).metadata[b"safety_landscape"])


def digest(value: bytes | str) -> str:
    return hashlib.sha256(value if isinstance(value, bytes) else value.encode()).hexdigest()


def _run_json(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a command with `--json`; return its arguments, exit code and output."""
    completed = call(folder, *arguments, "--json")
    assert "Traceback" not in completed.stderr, completed.stderr
    output = json.loads(completed.stdout.replace(f"{folder}{os.sep}", ""))
    return {"arguments": list(arguments), "code": completed.returncode, "output": output}


def status(folder: Path) -> Any:
    """Run `status`. It lists sweeps by their last use, which a copy does not keep, so they are sorted here."""
    result = _run_json(folder, "status", "stored")
    result["output"].sort(key=lambda sweep: sweep["folder"])
    return result


def verify(folder: Path) -> Any:
    """Run `verify` on the intact study; then damage a part, remove a prompt set, add a stray file, and run it again."""
    results = [_run_json(folder, "verify", "stored")]
    part = sorted(study(folder).glob("generations/*.parquet"))[0]
    content = bytearray(part.read_bytes())
    content[len(content) // 4] ^= 1
    part.write_bytes(content)
    sorted(study(folder).glob("prompts/*.parquet"))[0].unlink()
    (study(folder) / "notes.txt").write_text("mine\n")
    return [*results, _run_json(folder, "verify", "stored")]


def gate(folder: Path) -> Any:
    """Run `gate` with thresholds that are met, with thresholds that are not met, and with wrong input."""
    line, given_up = (str(sweeps(folder)[name]) for name in ("line", "given_up"))
    return [
        _run_json(folder, "gate", line, "origin_asr=80", "visage=1", "gate.confidence=0.6"),
        _run_json(folder, "gate", line, "origin_asr=5", "visage=99", "radius=0.45"),
        _run_json(folder, "gate", given_up, "visage=1", "gate.allow_single=true"),
        _run_json(folder, "gate", line, "visge=1"),
    ]


def compare(folder: Path) -> Any:
    """Run `compare` on the same points and probes under two system prompts."""
    line, given_up = (str(sweeps(folder)[name]) for name in ("line", "given_up"))
    return _run_json(folder, "compare", line, given_up)


def reports(folder: Path) -> Any:
    """Run `report` on each sweep; hash each block of data in the page, but not its text, which may be reworded."""
    results = {}
    for name, sweep in sweeps(folder).items():
        result = _run_json(folder, "report", str(sweep))
        page = (folder / sweep / "report.html").read_text(encoding="utf-8")
        blocks = re.findall(r'<script type="application/json" id="([^"]*)">(.*?)</script>', page, re.DOTALL)
        results[name] = result | {"data": {key: digest(text) for key, text in blocks}}
    return results


def tables(folder: Path) -> Any:
    """Call `load_study`; return the rows of each landscape, and a hash of each column of the longer tables."""
    from orchestrator import load_study

    results: dict[str, Any] = {"sweeps": {}}
    for name, sweep in sweeps(folder).items():
        stored = load_study(folder / sweep)
        results["sweeps"][name] = {
            "landscape": _columns(stored.landscape),
            "points": _digests(stored.points),
            "generations": _digests(stored.generations),
            "summary": digest(json.dumps(stored.summary, sort_keys=True)),
        }
    whole_study = load_study(study(folder))
    results["study"] = {"info": whole_study.info, "generations": _digests(whole_study.generations)}
    answers = load_study(next(path for path in (folder / "stored").iterdir() if path != study(folder)))
    results["answers"] = {"info": answers.info, "generations": _digests(answers.generations)}
    return results


def _columns(frame: pd.DataFrame) -> dict[str, Any]:
    return {str(name): {"type": str(frame[name].dtype), "values": _values(frame[name])} for name in frame}


def _digests(frame: pd.DataFrame) -> dict[str, str]:
    """Return the number of rows, and the type and a hash of each column, with rows sorted by their ids."""
    frame = frame.sort_values([name for name in ("point_id", "prompt_set_id", "prompt_id") if name in frame])
    columns = {str(name): f"{frame[name].dtype} {digest(json.dumps(_values(frame[name])))[:16]}" for name in frame}
    return {"rows": str(len(frame)), **columns}


def _values(column: pd.Series) -> list[Any]:
    text = column.to_json(  # type: ignore[call-overload]  # the type stubs lack orient="values"
        orient="values", date_format="iso", date_unit="us", double_precision=12
    )
    return json.loads(text)


def compact(folder: Path) -> Any:
    """Run `compact`; return its output and the metadata of the merged files."""
    result = _run_json(folder, "compact", "stored")
    return result | {"merged": dict(_merged(folder))}


def _merged(folder: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted((folder / "stored").glob("*/*/**/merged-*.parquet")):
        yield str(path.relative_to(folder)), meta(path)


OBSERVED: dict[str, Callable[[Path], Any]] = {
    "status": status,
    "verify": verify,
    "gate": gate,
    "compare": compare,
    "reports": reports,
    "tables": tables,
    "compact": compact,
}
