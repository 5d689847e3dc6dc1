"""A candidate for version 2 of the rule of adaptive grids, which `benchmarks.adaptive_process` measures.

Version 1 (`orchestrator.analysis.adaptive`) interpolates between the corners of cells, whose noise it cannot average.
The candidate infers from all measured nodes: how unsafe the model is along a line or plane is a Gaussian process
(`process`), and the responses at a node follow from it (`responses`). Full grids are drawn (`posterior`), their numbers
computed (`numbers`), and nodes chosen that say most about the differences (`choice`), in levels with an audit (`rule`).
"""
