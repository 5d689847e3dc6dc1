"""Actors that fail in every way an actor can, when a file in the study's folder `.tmp` tells them to."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

from orchestrator.sweep.tasks import Visit
from orchestrator.utils.errors import UserError
from workers.actor import Actor, Receipt


class Scripted(Actor):
    """Follows the instruction in the file named after the point's id: `before|after die|hang|raise|refuse [once]`."""

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
        return receipt or super().visit(visit)


class Broken(Scripted):
    """Its engine breaks for good after `lasts` visits, while its process lives on."""

    lasts = 2

    def visit(self, visit: Visit) -> Receipt:
        self.lasts -= 1
        if self.lasts < 0:
            raise RuntimeError("the engine's executor failed")
        return super().visit(visit)


class OneBroken(Broken):
    """Only the engine of the first actor breaks."""

    def load(self) -> dict[str, Any]:
        self.lasts = 2 if is_first(self._study.out) else 1000
        return super().load()


class BrokenAtOnce(Broken):
    """Its engine breaks as soon as it is loaded."""

    lasts = 0


class Closing(Actor):
    """Leaves a file when it is closed."""

    def close(self) -> None:
        super().close()
        (self._study.out / f"closed-{os.getpid()}").touch()


class WithoutDisk(Actor):
    """Lives on a machine that does not see the study's disk."""

    def __init__(self, spec: Any, study_root: str, study_id: str, token: str = "") -> None:
        super().__init__(spec, "/nowhere/to/be/seen", study_id, token)


class Refused(Actor):
    """Does not start, for a reason that the user has to repair."""

    def load(self) -> dict[str, Any]:
        raise UserError("model.path", "there", "the weights are quantized: use the unquantized model")


class OtherVersions(Actor):
    """All actors except the first live on machines with another vLLM."""

    def load(self) -> dict[str, Any]:
        description = super().load()
        if not is_first(self._study.out):
            description["versions"] |= {"vllm": "0.1"}
        return description


class WithoutModel(Actor):
    """All actors except the first, which is ready soon, live on machines without the model."""

    def load(self) -> dict[str, Any]:
        description = super().load()
        if not is_first(self._study.out):
            time.sleep(1)
            raise UserError("model.path", "there", "is not on this machine")
        return description


class DiesLoading(Actor):
    """Dies while it loads."""

    def load(self) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
        return {}


def is_first(out: Path) -> bool:
    """Return True to the first caller for this folder, and False to all others."""
    with contextlib.suppress(FileExistsError):
        (out / "first").touch(exist_ok=False)
        return True
    return False
