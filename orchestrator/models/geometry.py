"""How checkpoints lie around a model: what the verb `geometry` tells, from the weights alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config
from orchestrator.models import resolve as models
from orchestrator.models import targets
from orchestrator.pipeline import prepare as request
from orchestrator.utils.console import reading
from orchestrator.utils.errors import UserError
from workers.weights.targets import TOWARDS_FIELD


def measure(config: Config, presets: Presets, stream: TextIO) -> dict[str, Any]:
    """Of the model (first) and everything that the grid names: `distances` between all pairs, in units of weights;
    `cosines` of the angles between displacements from the model; and of each checkpoint its `distance` from the model
    in units of alpha (a random direction of that alpha moves the weights as far), its `share` of the model's norm, and
    its place on the `principal` plane of all (coordinates in units of weights; `shares` of the variance on each axis).

    One pass over the files, in bounded memory; `stream` shows how far it is. Raises UserError.
    """
    asked = config.grid
    base = models.check(models.resolve(config.model, stream).path)
    chain = request.trajectory(config, base, presets, stream) if asked.trajectory else []
    others = [*chain, *request.targets(TOWARDS_FIELD, config, base, presets, stream)]
    first = len(others)
    others += request.targets(request.BESIDE, config, base, presets, stream)
    if not others:
        raise UserError(
            TOWARDS_FIELD, "[]", "name checkpoints: grid.towards=[A,B], grid.trajectory=FOLDER or +experiment=drag"
        )
    fields = [targets.TRAJECTORY if chain else TOWARDS_FIELD] * first + [request.BESIDE] * (len(others) - first)
    targets.refuse_twins(others, fields)
    with reading(stream, "how the weights lie around the model") as progress:
        found = targets.around(base, others, asked.exclude, progress)
    targets.refuse_no_length(found, others, fields)
    if not found.moved:
        remedy = "leaves no weight for a random direction to move, and distances are told in its alpha: exclude fewer"
        raise UserError("grid.exclude", f"[{','.join(asked.exclude)}]", remedy)
    places, shares, _ = found.principal(min(2, len(others)))
    return {
        "model": config.model.name,
        "norm": found.base,
        "checkpoints": [
            {
                "name": target.label,
                "path": str(target.path),
                "distance": float(length / found.moved),
                "share": float(length / found.base),
            }
            for target, length in zip(others, found.lengths, strict=True)
        ],
        "distances": found.distances.tolist(),
        "cosines": found.cosines.tolist(),
        "principal": {"places": places.tolist(), "shares": shares.tolist()},
    }


def table(found: Mapping[str, Any]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """For people: head and rows. Cosines are to the checkpoints above; the model itself is the first row."""
    names = [each["name"] for each in found["checkpoints"]]
    head = ("", "checkpoint", "alpha", "of the norm", "on the principal plane", "cosines to those above")
    places = [", ".join(f"{x:+.2f}" for x in place) for place in found["principal"]["places"]]
    rows: list[Sequence[str]] = [("0", found["model"], "0", "", places[0], "")]
    for i, (name, each) in enumerate(zip(names, found["checkpoints"], strict=True)):
        above = " ".join(f"{cosine:+.2f}" for cosine in found["cosines"][i][:i])
        rows.append((str(i + 1), name, f"{each['distance']:.2g}", f"{100 * each['share']:.2g}%", places[i + 1], above))
    return head, rows
