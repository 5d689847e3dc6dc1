"""Admit actors to a run: their engines must give the responses that those of the sweep's stored rows would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.store.engine_identity import Comparison, compare
from orchestrator.store.runs import RunRecorder
from orchestrator.utils.errors import NodeError, UserError
from orchestrator.utils.hashing import content_id


class Admission:
    """Callback for new actors: refuses one whose engine differs from that of the sweep's stored rows."""

    def __init__(self, engines: Sequence[Mapping[str, Any]], mix: bool, recorder: RunRecorder) -> None:
        """Begin with the engines of the stored rows.

        Args:
            engines: Their identities.
            mix: Whether to admit other engines too.
            recorder: Records the actors, and the settings that could not be compared.
        """
        self._engines = {content_id(engine): engine for engine in engines}
        self._mix = mix
        self._recorder = recorder

    def __call__(self, description: Mapping[str, Any]) -> None:
        """Record an actor.

        Raises:
            NodeError: It is refused, and so would be every actor of its node.
            UserError: It is refused.
        """
        self._recorder.record_actor(description)
        engine_id, engine = description["engine_id"], description["engine"]
        for known_id, known in self._engines.items():
            comparison = compare(known, engine)
            if comparison.differing and not self._mix:
                raise _refusal(comparison, description)
            if comparison.ignored:
                names = ", ".join(comparison.ignored)
                self._recorder.note(f"engines {known_id} and {engine_id} were not compared in: {names}")
        self._engines.setdefault(engine_id, engine)


def _refusal(comparison: Comparison, description: Mapping[str, Any]) -> UserError:
    differing = ", ".join(
        f"{name} {before} before and {now} now" for name, (before, now) in comparison.differing.items()
    )
    remedy = f"stored rows of this sweep come from another engine ({differing}): select that one, or mix them"
    remedy = f"{remedy} with engine.mix=true"
    if comparison.concerns_node:
        return NodeError("engine.mix", "false", remedy, description["node"])
    return UserError("engine.mix", "false", remedy)
