"""The perturbation: what it is (definition), what it must give (reference), how it is done fast (cpu, gpu).

Only the definition is imported here, which needs nothing but numpy: the driver imports it too.
"""

from workers.noise.definition import NOISE_VERSION, DType, Slab, Term, table, tensor_key

__all__ = ["NOISE_VERSION", "DType", "Slab", "Term", "table", "tensor_key"]
