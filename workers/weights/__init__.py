"""Weights: mapped checkpoints, their layout in memory, perturbed writes."""
