"""What computes: engines, kernels, finetuning."""

import os

# Read by OpenMP when torch is loaded. Threads that spin while they wait take the core from those they wait for: beside
# another process a visit took 2.5 times as long, and training spun for 90% of its time. Alone, spinning gains 5 to 10%.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
