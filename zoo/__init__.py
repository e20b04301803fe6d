"""The zoo: every published FCOS detector by name.

>>> import zoo
>>> zoo.names("FCOS_*R_50*")
>>> detector = zoo.get("FCOS_MS_R_101_2x")
>>> for found in detector.detect(["street.jpg"], score_threshold=0.3):
...     print(found.names, found.boxes)
"""

from zoo.available import NoWeightsError
from zoo.build import build, load_checkpoint
from zoo.card import Card, UnknownEntryError, card, names
from zoo.formats import CheckpointError
from zoo.load import get
from zoo.sources import WeightsError

__all__ = [
    "Card",
    "CheckpointError",
    "NoWeightsError",
    "UnknownEntryError",
    "WeightsError",
    "build",
    "card",
    "get",
    "load_checkpoint",
    "names",
]
