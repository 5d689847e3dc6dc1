"""Helpers without any knowledge of sweeps: errors, hashing, console, subprocesses. They import nothing of ours."""
