"""The data to train and evaluate on: datasets, augmentation, samplers and checks."""
