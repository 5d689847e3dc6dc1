"""A pure cost model: GPUs, memory and time."""
