"""Reports: the published figures with the measured ones, as tables, plots and pages."""
