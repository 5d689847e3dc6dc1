"""Engines that apply a point and generate: vLLM, transformers, and a dummy."""
