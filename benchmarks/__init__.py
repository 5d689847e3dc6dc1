"""Programs that measure speed, memory, the coverage of intervals and the judge `degenerate`; see RESULTS.md."""
