"""How weight files arrive (:func:`fetch`), are kept (``cache``) and are read (:func:`read`).

This package knows files, not models: it imports nothing else of the zoo, and torch only to read.
"""

from zoo.weights.errors import WeightsError
from zoo.weights.fetch import fetch, progress_bars
from zoo.weights.host import Retry, probe
from zoo.weights.location import Location
from zoo.weights.read import read

__all__ = ["Location", "Retry", "WeightsError", "fetch", "probe", "progress_bars", "read"]
