"""Verbs that run beside the sweep: they are killed at random moments, and what the others answer is checked."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.chaos.hosts import ROOT
from tests.e2e.preloaded import Server

VERBS = ("reduce", "judge", "report", "compact", "verify", "gate")
FIRST_GUESS = 3.0  # seconds that a verb takes, until one of its kind has ended
LONGEST = 30.0  # seconds after which a verb is killed in any case
COMPLETE, NOT_MET, REFUSED = 0, 1, 2  # exit codes of a verb that is not killed


class Verbs:
    """Context manager that starts one verb at a time, in a fork of a process that has imported the program.

    Attributes:
        killed: How often each verb was killed.
        ended: How often each verb ended before its kill, by verb and exit code.
        problems: One line for each wrong answer of those.
    """

    def __init__(self, out: Path, env: dict[str, str], scratch: Path, chance: random.Random) -> None:
        self._out, self._env, self._random = out, env, chance
        self._texts = scratch / "verb.out", scratch / "verb.err"
        self._verb, self._pid, self._begun, self._kill_at = "", 0, 0.0, 0.0
        self._usual: dict[str, float] = {}
        self.killed: collections.Counter[str] = collections.Counter()
        self.ended: collections.Counter[tuple[str, int]] = collections.Counter()
        self.problems: list[str] = []

    def __enter__(self) -> Verbs:
        self._server = Server(self._env)
        return self

    def __exit__(self, *_: object) -> None:
        if self._verb:
            self._kill()
            self._server.wait(LONGEST)
        self._server.close()

    def start(self, verb: str, sweep: Path) -> bool:
        """Start a verb on a sweep; it is killed at a random moment. Returns False if another one runs."""
        if self._verb:
            return False
        for path in self._texts:
            path.unlink(missing_ok=True)
        where = sweep.parents[1] if verb in ("compact", "verify") else sweep
        options = ["visage=1"] if verb == "gate" else []
        self._pid = self._server.start([verb, str(where), "--json", *options], ROOT, self._env, *self._texts)
        self._verb, self._begun = verb, time.monotonic()
        self._kill_at = self._begun + self._random.uniform(0, self._usual.get(verb, FIRST_GUESS))
        return True

    def attend(self) -> str | None:
        """Kill the verb if it is time. Returns the verb if it was killed, None otherwise."""
        if not self._verb:
            return None
        now = time.monotonic()
        code = self._server.wait(0)
        if code is None and now < self._kill_at:
            return None
        verb, self._verb = self._verb, ""
        if code is None:
            self._verb = verb
            self._kill()
            code, self._verb = self._server.wait(LONGEST), ""
        if code == -signal.SIGKILL:
            self.killed[verb] += 1
            return verb
        self._usual[verb] = min(LONGEST, now - self._begun)
        self.ended[verb, -1 if code is None else code] += 1
        self.problems += self._check(verb, code)
        return None

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def _check(self, verb: str, code: int | None) -> Iterator[str]:
        """Yield a line for each fault in what a verb answered that was not killed."""
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in self._texts)
        last = err.strip().splitlines()[-1] if err.strip() else ""
        if "Traceback" in err or code not in (COMPLETE, NOT_MET, REFUSED):
            yield f"{verb} ended with {code}: {last[:300]}"
        elif code == REFUSED:
            if not last:
                yield f"{verb} ended with {code} and without a word"
        else:
            yield from _findings(verb, code, json.loads(out), err)


def _findings(verb: str, code: int, document: object, err: str) -> Iterator[str]:
    """Yield what `gate` and `verify` found unsound, and what others ended with 1 for. A gate may be unmet."""
    if verb == "gate":
        assert isinstance(document, dict)
        yield from (f"gate finds unsound: {sentence}" for sentence in document["unsound"])
    elif verb == "verify":
        assert isinstance(document, dict)
        for study in document.values():
            yield from (f"verify finds {finding['path']}: {finding['why']}" for finding in study["findings"])
    elif code == NOT_MET:
        yield f"{verb} ended with 1: {err.strip()[-300:]}"
