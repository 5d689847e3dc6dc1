"""Computation on model weights: inference engines, weight perturbation, noise kernels, finetuning."""

import os

# OpenMP reads this when torch is loaded. Threads that spin while they wait take cores from the threads they wait for:
# next to another busy process a visit took 2.5 times as long, and training spent 90% of its time spinning. On an
# otherwise idle machine spinning is 5 to 10% faster.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
