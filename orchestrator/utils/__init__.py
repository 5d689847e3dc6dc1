"""General helpers that do not depend on sweeps: errors, hashing, console, subprocesses, cache."""
