"""Build a sweep's grid: resolve the checkpoints that it leads to, measure them, and place the extra ones on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.analysis.adaptive.rule import RULE_VERSION
from orchestrator.config.presets import Presets
from orchestrator.config.schema import Config
from orchestrator.judges import first_text_judge
from orchestrator.models.checkpoint import CheckpointInfo
from orchestrator.models.geometry import check_nonzero_lengths, measure_targets, warn_of_rounding
from orchestrator.models.targets import (
    BESIDE_FIELD,
    MATCH_FIELD,
    check_no_duplicates,
    is_recipe,
    read_target,
    resolve_targets,
)
from orchestrator.models.trajectory import TRAJECTORY_FIELD, principal_axis_adapters, resolve_trajectory
from orchestrator.sweep.directions._seeded import DIRECTION_FIELD, DrawnDirection, seeded_kind
from orchestrator.sweep.directions.towards import TowardsDirection
from orchestrator.sweep.grid import Adaptive, ExtraCheckpoint, Grid
from orchestrator.sweep.points import DECIMALS
from orchestrator.sweep.target_geometry import TargetGeometry
from orchestrator.utils.choices import GridKind
from orchestrator.utils.errors import UserError
from workers.weights.geometry import Geometry
from workers.weights.lora_config import TOWARDS_FIELD
from workers.weights.targets import Target

RANDOM = "random"
DIRECTION_THAT_MATCHES = {"adapter": "shuffled", "checkpoint": "matched"}
"""Kind of target -> the kind of direction that has most in common with it."""
MANY_PROMPT_SETS = 5
"""Number of prompt sets at each point from which `grid.crowded_steps` applies to a line."""


@dataclass(frozen=True)
class ResolvedGrid:
    """A grid and the checkpoints and adapters from which its directions are made.

    Attributes:
        grid: The grid.
        targets: First those that span its axes, then the extra ones; or the one that random directions match.
        geometry: Their distances from the model. None without targets.
    """

    grid: Grid
    targets: tuple[Target, ...] = ()
    geometry: TargetGeometry | None = None


def build_grid(
    config: Config,
    towards: Sequence[TowardsDirection] = (),
    eq4: tuple[float, float] | None = None,
    extra_checkpoints: Sequence[ExtraCheckpoint] = (),
    hidden: bool = False,
    match: TowardsDirection | None = None,
    direction: str | None = None,
) -> Grid:
    """Return the grid of a configuration. Reads no files.

    Args:
        config: The validated configuration.
        towards: Directions to the checkpoints that span the grid.
        eq4: The coefficients (c, s) of `Geometry.eq4` for a plane of two checkpoints with orthogonal axes.
        extra_checkpoints: Extra checkpoints, with their coordinates.
        hidden: Whether the checkpoints in `towards` are axes only and not measured.
        match: The checkpoint of grid.match.
        direction: Kind of the random directions. None: that of the configuration, or `random`.
    """
    options = config.grid
    steps = options.steps
    if options.kind not in (GridKind.random_1d, GridKind.interpolate_1d):
        steps = options.plane_steps or steps
    elif max(1, len(config.probe_sets)) * max(1, len(config.system_prompts)) >= MANY_PROMPT_SETS:
        steps = options.crowded_steps or steps
    return Grid(
        kind=options.kind,
        steps=steps,
        range=(options.range[0], options.range[1]),
        range_y=(options.range_y[0], options.range_y[1]) if options.range_y else None,
        directions=options.directions,
        seed=options.seed,
        norm=options.norm,
        exclude=tuple(options.exclude),
        orthogonal=options.orthogonal,
        towards=tuple(towards),
        eq4=eq4,
        extra_checkpoints=tuple(extra_checkpoints),
        hidden=hidden,
        direction=seeded_kind(direction or options.direction or RANDOM).kind,
        match=match,
        adaptive=_adaptive(config),
    )


def _adaptive(config: Config) -> Adaptive | None:
    """Return how nodes are chosen: by the current rule and the sweep's first text judge. None: all are measured."""
    if not config.grid.adaptive:
        return None
    judge = first_text_judge(config.judge_names)
    assert judge is not None  # as `validation` has checked
    return Adaptive(judge.name, RULE_VERSION)


def resolve_grid(config: Config, base: CheckpointInfo | None, presets: Presets) -> ResolvedGrid:
    """Build the grid. Resolve and measure the checkpoints and adapters that it names.

    Args:
        config: The validated configuration.
        base: The model. None for the dummy engine.
        presets: The presets that a grid may name.

    Raises:
        UserError: (grid.towards, grid.trajectory, grid.beside or grid.match) A name cannot be resolved, a checkpoint
            does not fit the model or has the model's weights, or two checkpoints have the same weights or span no
            plane.
    """
    options = config.grid
    if options.match:
        return _matched_grid(config, base, presets)
    if not (options.towards or options.trajectory or options.beside):
        return ResolvedGrid(build_grid(config))
    if base is None:
        field = TRAJECTORY_FIELD if options.trajectory else TOWARDS_FIELD
        names = options.trajectory or f"[{','.join(options.towards or options.beside)}]"
        raise UserError(field, names, "the dummy has no weights: name a model")
    named = _resolve_named(config, base, presets)
    measured = _measure(named.targets, named.fields, base, config)
    # Further axes of interpolate_1d are separate lines: coordinates are those on the first line.
    spanning = 1 if options.kind == GridKind.interpolate_1d else len(named.axes)
    eq4: tuple[float, float] | None = None
    if spanning == 2:
        coefficients = measured.eq4()  # raises if the two axes do not span a plane
        if options.orthogonal and not named.trajectory:
            eq4 = coefficients
    extra_checkpoints = [
        ExtraCheckpoint(_direction(target), *nearest_coordinates(measured.gram, len(named.axes) + i, spanning, eq4))
        for i, target in enumerate(named.extra)
    ]
    extra_checkpoints += _controls(named.axes[0], config)
    recipes = {}
    if options.trajectory and is_recipe(options.trajectory, presets):
        recipes[named.trajectory[-1].label] = options.trajectory  # the recipe's result is the last epoch
    geometry = dataclasses.replace(_geometry(named.targets, measured), plane_share=named.plane_share, recipes=recipes)
    return ResolvedGrid(
        build_grid(
            config, [_direction(target) for target in named.axes], eq4, extra_checkpoints, bool(named.plane_share)
        ),
        named.targets,
        geometry,
    )


def _matched_grid(config: Config, base: CheckpointInfo | None, presets: Presets) -> ResolvedGrid:
    """Return the grid of random directions that have the lengths of a checkpoint or adapter."""
    options = config.grid
    if base is None:
        raise UserError(MATCH_FIELD, options.match, "the dummy has no weights: name a model")
    (target,) = resolve_targets(MATCH_FIELD, config, base, presets)
    kind = _kind_that_matches(target, config)
    measured = _measure((target,), (MATCH_FIELD,), base, config)
    grid = build_grid(config, match=_direction(target), direction=kind.kind)
    return ResolvedGrid(grid, (target,), _geometry((target,), measured))


def _kind_that_matches(target: Target, config: Config) -> type[DrawnDirection]:
    """Return the kind of random directions that match a target.

    Raises:
        UserError: (grid.direction) The kind is made from an adapter, and the target is a checkpoint.
    """
    kind = seeded_kind(config.grid.direction or DIRECTION_THAT_MATCHES[target.kind])
    if kind.needs_adapter and target.kind != "adapter":
        raise UserError(DIRECTION_FIELD, kind.kind, f"is made from an adapter, and {target.path} is none: use matched")
    return kind


def _controls(target: Target, config: Config) -> list[ExtraCheckpoint]:
    """Return the random directions that are measured at the distance of a line's end (grid.controls).

    They are shown at coordinate 0, because the projection of a random direction on a line is close to zero.
    """
    options = config.grid
    if not options.controls:
        return []
    kind, fingerprint = _kind_that_matches(target, config), target.fingerprint
    seeds = range(options.seed, options.seed + options.controls)
    drawn = (kind.draw(seed, options.norm, tuple(options.exclude), None, fingerprint) for seed in seeds)
    return [ExtraCheckpoint(direction, 0.0) for direction in drawn]


def _geometry(targets: Sequence[Target], measured: Geometry) -> TargetGeometry:
    """Return the record of the targets' distances from the model."""
    fingerprints = [target.fingerprint for target in targets]
    return TargetGeometry(
        base_norm=measured.base,
        moved_norm=measured.moved,
        lengths=dict(zip(fingerprints, measured.lengths.tolist(), strict=True)),
        rounding=dict(zip(fingerprints, measured.rounding, strict=True)),
    )


@dataclass(frozen=True)
class _NamedTargets:
    """The targets that the options of a grid name: those that span its axes, and the extra ones.

    Attributes:
        axes: The targets that span the axes.
        extra: The other targets.
        fields: The option that named each target, axes first.
        trajectory: The checkpoints of grid.trajectory, in order.
        plane_share: Share of the trajectory's squared displacements in its principal plane. None if the axes are not
            those of such a plane.
    """

    axes: tuple[Target, ...]
    extra: tuple[Target, ...]
    fields: tuple[str, ...]
    trajectory: tuple[Target, ...] = ()
    plane_share: float | None = None

    @property
    def targets(self) -> tuple[Target, ...]:
        """All targets, axes first."""
        return (*self.axes, *self.extra)


def _resolve_named(config: Config, base: CheckpointInfo, presets: Presets) -> _NamedTargets:
    """Resolve grid.trajectory (or grid.towards) and grid.beside.

    A trajectory spans a line to its last checkpoint, or its principal plane; the other checkpoints are extra ones.
    """
    options = config.grid
    trajectory = tuple(resolve_trajectory(config, base, presets)) if options.trajectory else ()
    extra = tuple(resolve_targets(BESIDE_FIELD, config, base, presets))
    extra_fields = (BESIDE_FIELD,) * len(extra)
    if not trajectory:
        axes = tuple(resolve_targets(TOWARDS_FIELD, config, base, presets))
        return _NamedTargets(axes, extra, (TOWARDS_FIELD,) * len(axes) + extra_fields)
    if options.kind != GridKind.interpolate_2d:
        fields = (TRAJECTORY_FIELD,) * len(trajectory) + extra_fields
        return _NamedTargets(trajectory[-1:], (*trajectory[:-1], *extra), fields, trajectory)
    axes, plane_share = _principal_axes(trajectory, base, config)
    fields = (TRAJECTORY_FIELD,) * (len(axes) + len(trajectory)) + extra_fields
    return _NamedTargets(axes, (*trajectory, *extra), fields, trajectory, plane_share)


def _principal_axes(
    trajectory: Sequence[Target], base: CheckpointInfo, config: Config
) -> tuple[tuple[Target, ...], float]:
    """Return two adapters that span a trajectory's principal plane, and the share of the trajectory in that plane."""
    measured = measure_targets(base, trajectory, config.grid.exclude, config.model.dtype)
    check_nonzero_lengths(measured, trajectory, [TRAJECTORY_FIELD] * len(trajectory))
    _, weights, plane_share = measured.principal_axes()
    adapters = principal_axis_adapters(base, trajectory, weights.tolist())
    axes = [
        dataclasses.replace(read_target(adapter, base, TOWARDS_FIELD), label=f"principal {adapter.name}")
        for adapter in adapters
    ]
    return tuple(axes), plane_share


def _measure(targets: Sequence[Target], fields: Sequence[str], base: CheckpointInfo, config: Config) -> Geometry:
    """Measure the targets. Warns of those that the engine's rounding changes.

    Raises:
        UserError: (the option in `fields`) Two targets are equal, or one has the base's weights.
    """
    check_no_duplicates(targets, fields)
    measured = measure_targets(base, targets, config.grid.exclude, config.model.dtype)
    check_nonzero_lengths(measured, targets, fields)
    warn_of_rounding(measured, config.model.dtype)
    return measured


def _direction(target: Target) -> TowardsDirection:
    return TowardsDirection(target.fingerprint, target.label)


def nearest_coordinates(
    gram: npt.NDArray[np.float64], i: int, axes: int, eq4: tuple[float, float] | None
) -> tuple[float, float | None]:
    """Return the coordinates of the point on a line or plane that is nearest to a displacement.

    Args:
        gram: Dot products of all displacements, float64[n, n].
        i: Index of the displacement.
        axes: 1 for the line of displacement 0, 2 for the plane of displacements 0 and 1.
        eq4: (c, s) if the second axis is s (d_1 - c d_0), as in Peng et al. 2024, Eq. 4; None if it is d_1.

    Returns:
        The coordinates, rounded as those of points are. The second one is None on a line.
    """
    span = list(range(axes))
    on_first, *on_second = (float(x) for x in np.linalg.solve(gram[np.ix_(span, span)], gram[span, i]))
    if not on_second:
        return round(on_first, DECIMALS), None
    c, s = eq4 or (0.0, 1.0)
    return round(on_first + on_second[0] * c, DECIMALS), round(on_second[0] / s, DECIMALS)
