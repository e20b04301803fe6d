"""Hydra configuration groups: what differs between the published systems."""
