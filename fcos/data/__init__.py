"""What the detectors learn from: datasets, augmentation, samplers and checks."""
