"""The share of the points that adaptive grids measured in simulated landscapes, for `plan`."""

from __future__ import annotations

from orchestrator.sweep.grid import Grid
from orchestrator.utils.package_data import read_json_data


def simulated_share(grid: Grid) -> str:
    """Return, as a clause, the share of the points that the rule measured in simulations of a grid like this one.

    The simulations (`benchmarks/adaptive.py`) are of lines of 21 and 81 points and of planes of 21 x 21 points. The
    clause names those whose number of points on an axis is nearest to the grid's, by their ratio.
    """
    shares: dict[str, list[float]] = read_json_data("adaptive_shares.json")["shares"]
    kind, points = ("plane" if grid.is_plane else "line"), grid.steps + 1
    sizes = [int(name.split()[1]) for name in shares if name.startswith(kind)]
    nearest = min(sizes, key=lambda size: max(size, points) / min(size, points))
    low, _, high = shares[f"{kind} {nearest}"]
    size = f"{nearest} x {nearest}" if grid.is_plane else f"{nearest}"
    return f"in 80% of simulated {kind}s of {size} points, {100 * low:.0f} to {100 * high:.0f}% were measured"
