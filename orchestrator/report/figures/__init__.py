"""Figures of a landscape for print: PNG, SVG or PDF, chosen by the file's suffix. Import late: Matplotlib is slow."""
