"""Finetuning in a process of its own."""
