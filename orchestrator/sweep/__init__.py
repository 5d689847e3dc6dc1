"""What is to be measured, as pure hashed values: points, grids, tasks."""
