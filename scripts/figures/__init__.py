"""Measure, draw and write every figure and measured number of the documentation: `make figures`."""
