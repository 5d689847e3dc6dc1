"""The code that computes: engines, weights, noise kernels, finetuning."""

import os

# OpenMP reads this when torch is loaded. Threads that spin while they wait take cores from the threads they wait for:
# beside another process a visit took 2.5 times as long, and training spun for 90% of its time. Without other processes
# spinning gains 5 to 10%.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
