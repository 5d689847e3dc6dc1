"""Helpers without any knowledge of sweeps: errors, hashing, console, subprocesses, cache."""
