"""How the detectors learn: optimiser, schedule, loop, checkpoints."""
