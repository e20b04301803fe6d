"""Measurements behind one design decision each; their output is in `reports/`."""
