"""Training: optimiser, schedule, loop, checkpoints."""
