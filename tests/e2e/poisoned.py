"""The command line with an actor that fails at one point while the file $POISON exists."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from orchestrator.cli import main as command_line
from orchestrator.execution import setup
from orchestrator.sweep.tasks import Visit
from workers.actor import Actor, Receipt


class Poisoned(Actor):
    def visit(self, visit: Visit) -> Receipt:
        if [c for _, c in visit.point.coefficients] == [0.25] and Path(os.environ["POISON"]).exists():
            raise RuntimeError("this point is poison")
        return super().visit(visit)


if __name__ == "__main__":
    from tests.e2e import poisoned  # imported by name, so that actors find the class

    setup.DispatchSetup = functools.partial(setup.DispatchSetup, actor=poisoned.Poisoned)  # type: ignore[misc,assignment]
    sys.exit(command_line.main(sys.argv[1:]))
