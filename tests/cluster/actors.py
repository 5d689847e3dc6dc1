"""Actors that fail in different ways, some only at points for which a test wrote an instruction file."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.sweep.continuations import ContinuationBatch
from orchestrator.sweep.directions import Direction
from orchestrator.sweep.tasks import PromptSet, Visit
from orchestrator.utils.errors import NodeError, UserError
from orchestrator.utils.hashing import content_id
from workers.actor import Actor, LogProbabilityReceipt, Receipt, node
from workers.engines.base import Generation

HOLD = "hold"
"""Name of a file in the study's folder that holds actors while it exists."""
HOLD_LIMIT = 120.0
"""Seconds after which a held visit fails."""


def is_first(out: Path, occasion: str = "") -> bool:
    """Return True to the first caller for this folder and occasion, and False to all others."""
    with contextlib.suppress(FileExistsError):
        (out / f"first{occasion}").touch(exist_ok=False)
        return True
    return False


class Held(Actor):
    """An actor that runs no visit while the test holds its actors (see `Job.hold`)."""

    is_held = True

    def visit(self, visit: Visit) -> Receipt:
        deadline = time.monotonic() + HOLD_LIMIT
        while self.is_held and (self._study.out / HOLD).exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"held for {HOLD_LIMIT} s")
            time.sleep(0.02)
        return super().visit(visit)


class Scripted(Held):
    """Follow the instruction in the file named after the point's id.

    It is `before|after die|hang|raise|refuse|lose|exhaust [once]`. The last two let the engine lose its GPU, or run out
    of memory; from then on it gives wrong responses.
    """

    def visit(self, visit: Visit) -> Receipt:
        file = self._study.out / visit.point.id
        instruction = file.read_text() if file.exists() else ""
        if instruction.endswith(" once"):
            file.unlink()
        receipt = super().visit(visit) if instruction.startswith("after") else None
        match instruction.split():
            case [_, "die", *_]:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)
            case [_, "hang", *_]:
                os.kill(os.getpid(), signal.SIGSTOP)
            case [_, "raise", *_]:
                raise RuntimeError("this point is beyond me")
            case [_, "refuse", *_]:
                raise UserError("model.max_model_len", 12, "raise it")
            case [_, "lose", *_]:
                self.break_engine("CUDA error: uncorrectable ECC error encountered")
            case [_, "exhaust", *_]:
                self.break_engine("CUDA out of memory. Tried to allocate 2.50 GiB.")
        return receipt or super().visit(visit)

    def break_engine(self, message: str) -> None:
        """Let the engine raise an error once, and answer every prompt with nothing afterwards."""
        generate = self.engine.generate
        errors = [RuntimeError(message)]

        def broken(prompt_sets: Sequence[PromptSet]) -> list[list[Generation]]:
            if errors:
                raise errors.pop()
            return [[dataclasses.replace(one, response="") for one in each] for each in generate(prompt_sets)]

        self.engine.generate = broken  # type: ignore[method-assign]


class OnBadGpu(Scripted):
    """An actor that loses its GPU at each visit."""

    def visit(self, visit: Visit) -> Receipt:
        self.break_engine("CUDA error: an illegal memory access was encountered")
        return super().visit(visit)


class OneOnGoodGpu(OnBadGpu):
    """Like OnBadGpu, but the first actor has a good GPU. The others are never held."""

    def load(self) -> dict[str, Any]:
        self.is_held = is_first(self._study.out)
        return super().load()

    def visit(self, visit: Visit) -> Receipt:
        return Scripted.visit(self, visit) if self.is_held else super().visit(visit)


class Broken(Scripted):
    """An actor whose engine fails for good after `working_visits` visits, while its process stays alive."""

    working_visits = 2

    def visit(self, visit: Visit) -> Receipt:
        self.working_visits -= 1
        if self.working_visits < 0:
            raise RuntimeError("the engine's executor failed")
        return super().visit(visit)


class OneBroken(Broken):
    """Like Broken, but only the engine of the first actor fails, which is never held."""

    def load(self) -> dict[str, Any]:
        self.is_held = not is_first(self._study.out)
        self.working_visits = 1000 if self.is_held else 2
        return super().load()


class BrokenAtOnce(Broken):
    """An actor whose engine fails at its first visit."""

    working_visits = 0


class Closing(Held):
    """An actor that writes a file when it is closed."""

    def close(self) -> None:
        super().close()
        (self._study.out / f"closed-{os.getpid()}").touch()


class WithoutDisk(Actor):
    """An actor on a machine that does not see the study's disk."""

    def __init__(self, spec: Any, study_root: str, study_id: str, token: str = "") -> None:
        super().__init__(spec, "/nowhere/to/be/seen", study_id, token)


class HangsMeasuring(Actor):
    """Hang at the first direction that any actor measures."""

    def measure(self, direction: Direction) -> pa.Table:
        if is_first(self._study.out):
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().measure(direction)


class HangsInConstructor(Actor):
    """Hang in the constructor of the first actor, whose process id is written to a file."""

    def __init__(self, spec: Any, study_root: str, study_id: str, token: str = "") -> None:
        super().__init__(spec, study_root, study_id, token)
        if is_first(self._study.out):
            (self._study.out / "hanging").write_text(str(os.getpid()))
            time.sleep(600)


class HangsAtFirst(Actor):
    """Hang while the first actor loads, and at the first visit that any actor runs."""

    def load(self) -> dict[str, Any]:
        if is_first(self._study.out):
            time.sleep(600)
        return super().load()

    def visit(self, visit: Visit) -> Receipt:
        if is_first(self._study.out, "visit"):
            time.sleep(600)
        return super().visit(visit)


class FailsReading(Actor):
    """Fail to read a batch that contains the text `poison`, and hang once at one that contains the text `trap`."""

    def log_probabilities(self, batch: ContinuationBatch) -> LogProbabilityReceipt:
        texts = {continuation.text for continuation in batch.continuations}
        if "poison" in texts:
            raise RuntimeError("these texts are beyond me")
        if "trap" in texts and is_first(self._study.out):
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().log_probabilities(batch)


class Refused(Actor):
    """An actor that does not start because of a user error."""

    def load(self) -> dict[str, Any]:
        raise UserError("model.path", "there", "the weights are quantized: use the unquantized model")


class OtherVersions(Held):
    """Like Actor, but all except the first report another version of vLLM."""

    def load(self) -> dict[str, Any]:
        description = super().load()
        if not is_first(self._study.out):
            description["versions"] |= {"vllm": "0.1"}
        return description


class OldDriver(Held):
    """Like Actor, but all except the first, which is ready soon, find that no engine runs on their machine."""

    def load(self) -> dict[str, Any]:
        description = super().load()
        if not is_first(self._study.out):
            time.sleep(1)
            raise NodeError("cluster", "elsewhere", "the driver is too old", node())
        return description


class WithoutModel(Held):
    """Like Actor, but all except the first, which is ready soon, are on machines without the model."""

    def load(self) -> dict[str, Any]:
        description = super().load()
        if not is_first(self._study.out):
            time.sleep(1)
            raise UserError("model.path", "there", "is not on this machine")
        return description


class DiesLoading(Actor):
    """An actor whose process dies while it loads."""

    def load(self) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
        return {}


class Describes(Held):
    """Like Actor, but the engine's identity has further fields. The first actor, which is ready soon, has its own."""

    def load(self) -> dict[str, Any]:
        description = super().load()
        first = is_first(self._study.out)
        time.sleep(0 if first else 1)
        description["engine"] |= self.fields(first)
        return description | {"engine_id": content_id(description["engine"])}

    def fields(self, first: bool) -> dict[str, Any]:
        raise NotImplementedError


class MeasuresBlocks(Describes):
    """Each actor has a number of KV blocks of its own, as engines of the first version reported it."""

    def fields(self, first: bool) -> dict[str, Any]:
        return {"kv_blocks": os.getpid()}


class OtherDevice(Describes):
    """All except the first are on another device."""

    def fields(self, first: bool) -> dict[str, Any]:
        return {"device": "NVIDIA H100" if first else "NVIDIA L4"}


class OtherSettings(Describes):
    """All except the first divide batches differently."""

    def fields(self, first: bool) -> dict[str, Any]:
        return {"max_num_seqs": 128 if first else 64}
