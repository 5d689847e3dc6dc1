"""Run sweeps on three hosts while they are disturbed in every way: see `__main__.py`."""
