"""Settings of all tests: threads that do not fight, properties that are not timed."""

from __future__ import annotations

import os

import torch
from hypothesis import settings

settings.register_profile("zoo", deadline=None, max_examples=50)
settings.load_profile("zoo")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
