"""Checks that a user runs on a machine with a GPU, in three stages: kernel, engine, sweep."""
