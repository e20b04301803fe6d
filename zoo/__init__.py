"""The zoo: every published FCOS detector by name.

>>> import zoo
>>> zoo.names("FCOS_*R_50*")
>>> detector = zoo.get("FCOS_MS_R_101_2x")
>>> for detections in detector.detect(["street.jpg"], score_threshold=0.3):
...     print(detections.names, detections.boxes)

Names are imported on first use, so that code that only reads facts does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.exported import ExportedDetector as ExportedDetector
    from zoo.exported import load as load
    from zoo.formats import CheckpointError as CheckpointError
    from zoo.pretrained import build as build
    from zoo.pretrained import get as get
    from zoo.pretrained import load_checkpoint as load_checkpoint
    from zoo.registry import Card as Card
    from zoo.registry import NoWeightsError as NoWeightsError
    from zoo.registry import UnknownEntryError as UnknownEntryError
    from zoo.registry import card as card
    from zoo.registry import names as names
    from zoo.registry import register as register
    from zoo.sources import WeightsError as WeightsError

_MODULES = {
    **dict.fromkeys(("ExportedDetector", "load"), "exported"),
    "CheckpointError": "formats",
    **dict.fromkeys(("build", "get", "load_checkpoint"), "pretrained"),
    **dict.fromkeys(
        ("Card", "NoWeightsError", "UnknownEntryError", "card", "names", "register"), "registry"
    ),
    "WeightsError": "sources",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value = getattr(import_module(f"zoo.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
