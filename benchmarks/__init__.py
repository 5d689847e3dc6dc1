"""Programs that measure speed and memory; their figures are in RESULTS.md."""
