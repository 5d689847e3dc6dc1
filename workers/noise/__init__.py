"""Weight perturbation: its definition, a reference implementation, and fast kernels for CPU and GPU."""
