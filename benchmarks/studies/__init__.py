"""Measurements behind one design decision each; `reports/` keeps their output."""
