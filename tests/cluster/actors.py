"""Actors that fail in every way an actor can, on command: a file in the study's `.tmp` says at which point."""

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


class Told(Actor):
    """Does what the file named after the point's id says, before or after its visit, as often as it says."""

    def visit(self, visit: Visit) -> Receipt:
        order = self._study.out / visit.point.id
        what = order.read_text() if order.exists() else ""
        if what.endswith(" once"):
            order.unlink()
        receipt = super().visit(visit) if what.startswith("after") else None
        match what.split():
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


class Broken(Told):
    """Its engine is gone for good after `lasts` visits, while its process lives."""

    lasts = 2

    def visit(self, visit: Visit) -> Receipt:
        self.lasts -= 1
        if self.lasts < 0:
            raise RuntimeError("the engine's executor failed")
        return super().visit(visit)


class OneBroken(Broken):
    """Only the first one's engine breaks."""

    def load(self) -> dict[str, Any]:
        self.lasts = 2 if is_first(self._study.out) else 1000
        return super().load()


class Hopeless(Broken):
    """Its engine is gone as soon as it is loaded."""

    lasts = 0


class Closing(Actor):
    """Leaves a file when it is closed."""

    def close(self) -> None:
        super().close()
        (self._study.out / f"closed-{os.getpid()}").touch()


class Blind(Actor):
    """Lives on a machine that does not see the study's disk."""

    def __init__(self, spec: Any, study_root: str, study_id: str, token: str = "") -> None:
        super().__init__(spec, "/nowhere/to/be/seen", study_id, token)


class Refused(Actor):
    """Will not start, for a reason the user must mend."""

    def load(self) -> dict[str, Any]:
        raise UserError("model.path", "there", "the weights are quantised: use the unquantised model")


class Odd(Actor):
    """All but the first live on machines with another vLLM."""

    def load(self) -> dict[str, Any]:
        described = super().load()
        if not is_first(self._study.out):
            described["versions"] |= {"vllm": "0.1"}
        return described


class Bare(Actor):
    """All but the first, which is soon ready, live on machines without the model."""

    def load(self) -> dict[str, Any]:
        described = super().load()
        if not is_first(self._study.out):
            time.sleep(1)
            raise UserError("model.path", "there", "is not on this machine")
        return described


def is_first(out: Path) -> bool:
    """Whether nobody has asked yet for this folder."""
    with contextlib.suppress(FileExistsError):
        (out / "first").touch(exist_ok=False)
        return True
    return False


class Stillborn(Actor):
    """Dies while it loads."""

    def load(self) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
        return {}
