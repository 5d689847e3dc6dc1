"""Probe files and hub data sets become prompts, rendered to token ids."""
