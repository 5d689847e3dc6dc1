"""Engines that apply a point and generate responses: vLLM, transformers, and a dummy without a model."""
