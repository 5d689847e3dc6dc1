"""Definition of a sweep in immutable values, identified by content hashes: points, grids, tasks."""
