"""Weights & Biases: the project of WANDB_PROJECT. WANDB_MODE=offline writes files that `wandb sync` sends later."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.tracking.base import PROJECT, TrackedRun, Tracker, UnreachableError
from orchestrator.utils.errors import UserError

TIMEOUT = 30  # seconds for the connection


class Wandb(Tracker):
    """Writes one run for each sweep, with the sweep's id as its id."""

    name = "wandb"
    library = "wandb"

    def __init__(self) -> None:
        self._run: Any = None

    def destination(self) -> str:
        """Return the server and the project, or that the run is written to files."""
        import wandb

        settings = wandb.setup().settings
        return f"{settings.base_url} {settings.entity} {settings.project or PROJECT} {self._is_offline}"

    def check(self) -> None:
        """Log in, except offline. Raises UserError for a missing or wrong key, UnreachableError without a server."""
        import wandb
        from wandb.errors import AuthenticationError, CommError, UsageError

        if self._is_offline:
            return
        remedy = "set WANDB_API_KEY or call `wandb login`; WANDB_MODE=offline needs none"
        try:
            is_logged_in = wandb.login(verify=True, prompt=False, timeout=TIMEOUT)
        except (AuthenticationError, UsageError, ValueError) as error:  # also raised if no server answers
            if not _answers(wandb.setup().settings.base_url):
                raise UnreachableError(str(error)) from error
            raise UserError("track", self.name, f"does not accept the key: {remedy}") from error
        except (CommError, OSError, TimeoutError) as error:
            raise UnreachableError(str(error)) from error
        if not is_logged_in:
            raise UserError("track", self.name, f"has no key: {remedy}")

    def open(self, run: TrackedRun) -> None:
        """Continue the run with the sweep's id, or begin it."""
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=run.name,
            config=dict(run.settings),
            dir=str(run.folder),
            resume="allow",
            settings=wandb.Settings(
                console="off",
                silent=True,
                init_timeout=TIMEOUT,
                save_code=False,
                disable_git=True,  # what is measured does not depend on the folder that this process runs in
                x_disable_stats=True,
                x_disable_machine_info=True,
            ),
        )
        self._run.define_metric("point")
        self._run.define_metric("*", step_metric="point")  # a run that is continued cannot set its own steps

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values with `point`, the step that charts use."""
        self._run.log({"point": step, **values})

    def finish(self, step: int, results: Mapping[str, float], files: Mapping[str, Path]) -> None:
        """Send the results as the run's summary, the figure as an image, and all files as an artifact."""
        import wandb

        self._run.summary.update(dict(results))
        if "figure" in files:
            self._run.log({"point": step, "landscape": wandb.Image(str(files["figure"]))})
        artifact = wandb.Artifact(f"sweep-{self._run.id}", type="safety-landscape")
        for path in files.values():
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self) -> None:
        """Send what is buffered and end the run."""
        if self._run is not None:
            self._run.finish()

    @property
    def _is_offline(self) -> bool:
        return os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun")


def _answers(address: str) -> bool:
    """Return whether a web server answers at an address, with whatever status."""
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


TRACKER = Wandb
