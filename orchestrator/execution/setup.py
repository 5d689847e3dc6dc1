"""The configuration of a dispatch: study, engine, policy and callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.execution.events import Observer
from orchestrator.execution.policy import DispatchPolicy
from orchestrator.store.study import Study
from workers.actor import Actor

if TYPE_CHECKING:
    from workers.engines.base import EngineSpec


@dataclass(frozen=True)
class DispatchSetup:
    """Everything that a dispatch needs besides the visits to run.

    Attributes:
        study: Where responses and measured directions are stored.
        spec: The engine that each actor opens.
        policy: Number of actors, retries and deadlines.
        check_actor: Called with the description of each new actor; raises UserError to refuse it. That ends the run if
            no other actor is ready.
        observe: Called with each event (see `events.py`).
        actor: The class of the actors.
    """

    study: Study
    spec: EngineSpec
    policy: DispatchPolicy
    check_actor: Callable[[Mapping[str, Any]], None]
    observe: Observer
    actor: type[Actor] = Actor
