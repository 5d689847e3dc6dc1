"""One file for each tracker, which ends with `TRACKER = ...`; `orchestrator/tracking/registry.py` finds it by name."""
