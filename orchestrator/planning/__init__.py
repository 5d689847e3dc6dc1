"""Estimate the cost of a sweep from sizes alone: GPUs, memory, time and disk space."""
