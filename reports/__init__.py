"""Reports: the published figures beside the measured ones, as tables, plots and pages."""
