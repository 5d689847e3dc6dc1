"""The program's answers about a study that others disturb, compared with the truth.

A task is stored as a whole, so at any moment every row of a landscape equals the undisturbed one or is missing, and a
count of stored tasks lies between those that were stored before the question and after the answer.
"""

from __future__ import annotations

import collections
import json
import os
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from orchestrator import load_study
from orchestrator.store.status import examine
from orchestrator.store.study import Study
from orchestrator.store.sweep_folder import StoredSweep, SweepFolder
from orchestrator.utils.errors import UserError
from tests.cluster.chaos.hosts import ROOT
from tests.cluster.chaos.subject import Expected, difference, landscape_rows, without_costs

TIMEOUT = 600  # seconds: a machine may be busy
ROUNDED = 0.006  # the page shows two decimals
NOT_YET = ("has no landscape that can be read", "no study.json in that folder")
"""Refusals of a study or sweep that has nothing to show yet."""

Tasks = set[tuple[str, str]]


class TaskCounter:
    """Counts stored tasks without the program's code: from two columns of every file of responses."""

    def __init__(self, root: Path) -> None:
        self._generations = root / "generations"
        self._read: set[str] = set()
        self._tasks: Tasks = set()

    def stored(self) -> Tasks:
        """Return all tasks that are or were stored. A stored task is never lost."""
        while not all(map(self._read_file, list(self._generations.glob("*.parquet")))):
            pass  # a file was merged since, so another one has its rows
        return set(self._tasks)

    def _read_file(self, path: Path) -> bool:
        """Read a file unless it was read before. Returns False if it is gone."""
        if path.name in self._read:
            return True
        try:
            table = pq.read_table(path, columns=["point_id", "prompt_set_id"], partitioning=None)
        except FileNotFoundError:
            return False
        self._tasks.update(zip(table["point_id"].to_pylist(), table["prompt_set_id"].to_pylist(), strict=True))
        self._read.add(path.name)
        return True


class Viewer:
    """Context manager: `view` in a process of its own."""

    def __init__(self, out: Path) -> None:
        self._out, self._token = out, secrets.token_urlsafe(24)
        self._process: subprocess.Popen[str] | None = None
        self._address = ""

    def __enter__(self) -> Viewer:
        command = [sys.executable, "-m", "orchestrator", "view", str(self._out), "--json", "port=0"]
        env = {**os.environ, "LANDSCAPE_TOKEN": self._token, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT)
        assert self._process.stdout is not None
        self._address = json.loads(self._process.stdout.readline())["address"].partition("?")[0]
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()

    def get(self, path: str) -> Any:
        """Return the JSON at a path; None if there is nothing there yet."""
        request = urllib.request.Request(self._address + path, headers={"Authorization": f"Bearer {self._token}"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            if error.code == 404:
                return None
            raise RuntimeError(f"status {error.code}: {text[:200]}") from error


class Answers:
    """Asks about the newest sweep of a study, and compares each answer with the truth.

    Attributes:
        checked: Number of answers by who gave them. A number, a count and a row are one answer each.
    """

    def __init__(self, root: Path, viewer: Viewer) -> None:
        self._root, self._viewer = root, viewer
        self._tasks = TaskCounter(root)
        self._listed: dict[str, int] = {}  # the number of stored tasks that the viewer's list showed last, by sweep
        self.checked: collections.Counter[str] = collections.Counter()

    def problems(self, expected: Expected) -> Iterator[str]:
        """Ask about a sweep once. Yields a line for each answer that is wrong."""
        if not (self._root / "sweeps" / expected.sweep / "sweep.json").exists():
            return
        yield from self._status(expected)
        yield from self._tables(expected)
        yield from self._views(expected)

    def _status(self, expected: Expected) -> Iterator[str]:
        before = self._stored(expected)
        folder = SweepFolder(Study.open(self._root), self._root / "sweeps" / expected.sweep)
        status = examine(StoredSweep.open(folder))
        yield from self._count("status", expected, before, status.to_json())
        if status.seconds < 0 or status.gpu_hours < 0 or (status.eta_seconds or 0) < 0:
            yield f"status: {status.seconds} s, {status.gpu_hours} GPU-hours, {status.eta_seconds} s left"

    def _stored(self, expected: Expected) -> int:
        """Return how many tasks of a sweep are stored."""
        return len(self._tasks.stored() & expected.tasks)

    def _count(self, who: str, expected: Expected, least: int, answer: Mapping[str, Any]) -> Iterator[str]:
        """Compare the numbers of tasks in an answer. `least`: the smallest true number of stored tasks."""
        tasks, done, most = answer["tasks"], answer["done"], self._stored(expected)
        self.checked[who] += 1
        if tasks != len(expected.tasks) or not least <= done <= most:
            yield f"{who}: {done} of {tasks} tasks, true are {least} to {most} of {len(expected.tasks)}"

    def _tables(self, expected: Expected) -> Iterator[str]:
        loaded = load_study(self._root / "sweeps" / expected.sweep)
        frame = loaded.generations
        keys = zip(frame["point_id"], frame["prompt_set_id"], frame["prompt_id"], strict=True)
        stored = dict(zip(keys, frame["response"], strict=True))
        self.checked["load_study"] += len(frame)
        wrong = {key for key, text in stored.items() if expected.responses.get(key) != text}
        if wrong or len(stored) != len(frame) or loaded.problems:
            yield f"load_study: {len(wrong)} wrong, {len(frame) - len(stored)} doubled, {loaded.problems}"
        try:
            landscape, summary = loaded.landscape, loaded.summary
        except UserError as error:
            if not any(reason in str(error) for reason in NOT_YET):
                raise
            return
        yield from self._landscape(landscape, expected)
        if summary["points_done"] == summary["points_total"] and not summary["tasks_failed"]:
            self.checked["load_study"] += 1
            if differs := difference(without_costs(summary), expected.summary):
                yield f"load_study: the summary of {expected.sweep} is complete, and {differs}"

    def _landscape(self, frame: pd.DataFrame, expected: Expected) -> Iterator[str]:
        rows = landscape_rows(frame)
        self.checked["load_study"] += len(rows)
        for key, row in rows.items():
            if row["n"] and row != expected.landscape.get(key):
                yield f"load_study: row {key} of the landscape is {row}, true is {expected.landscape.get(key)}"
                return

    def _views(self, expected: Expected) -> Iterator[str]:
        mine = [row for row in self._viewer.get("sweeps") or [] if row["sweep"] == expected.sweep]
        if not mine and expected.sweep not in self._listed:
            return  # the viewer answers at once with the list that it has read last
        if len(mine) != 1 or mine[0]["state"] == "unreadable":
            yield f"viewer: lists {mine}"
            return
        yield from self._count("viewer", expected, self._listed.get(expected.sweep, 0), mine[0])
        self._listed[expected.sweep] = mine[0]["done"]
        before = self._stored(expected)
        page = self._viewer.get(f"sweeps/{expected.study}/{expected.sweep}/now")
        if page is None:
            yield "viewer: has no page of a sweep that it lists"
            return
        yield from self._count("viewer", expected, before, page["status"])
        yield from self._chart(page["chart"], expected)

    def _chart(self, chart: dict[str, Any], expected: Expected) -> Iterator[str]:
        true = {(key[0], row["point_id"], row["group"]): row for key, row in expected.landscape.items()}
        for result in chart["results"]:
            rows, group = result["rows"], "benign" if result["kind"] == "refusal" else "harmful"
            for line, point, n, refused in zip(rows["line"], rows["point"], rows["n"], rows["refused"], strict=True):
                row = true[line, chart["points"][point], group]
                self.checked["viewer"] += bool(n)
                if n and (n != row["n"] or abs(100 - row["asr"] - refused) > ROUNDED):
                    yield f"viewer: {refused} % of {n} refused in line {line}, true are {row}"
                    return
