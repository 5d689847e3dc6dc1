"""Finetuning, in a subprocess of its own."""
