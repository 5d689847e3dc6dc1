"""The public Python API. Import its names from `orchestrator`; docs/reference/python.md lists them."""
