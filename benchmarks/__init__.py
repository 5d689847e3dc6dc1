"""Programs that measure speed, memory, the coverage of intervals and the judge `degenerate`; see RESULTS.md."""

import os

# Before numpy is imported: threads of OpenBLAS that wait for each other take most of the time on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
