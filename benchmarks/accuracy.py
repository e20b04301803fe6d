"""COCO AP of a detector on a dataset, of its images as they are or corrupted."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from torch import Tensor

from benchmarks import analysis
from benchmarks.cases import Dataset
from benchmarks.dataset import image_ids
from fcos import Augmentation, Detector, coco_eval
from fcos.coco_eval import Result
from fcos.data.annotations import category_names, load_annotations
from fcos.data.dataset import CocoDataset, PILSample
from fcos.data.registry import check_is_minival
from fcos.evaluate import detect_dataset, match_categories
from zoo.exported import ExportedDetector

MINIVAL = ("val2017", "minival")
STRENGTHS = (1, 2, 3)
Corruption = tuple[str, int]  # a name of `CORRUPTIONS`, and a strength


def detect(
    detector: Detector | ExportedDetector,
    dataset: Dataset,
    ids: Iterable[int],
    batch: int = 1,
    tta: Sequence[Augmentation] = (),
    workers: int = 0,
    corruption: Corruption | None = None,
) -> list[Result]:
    """Detections of the images in COCO's results format: all that the decoder keeps.

    With a `corruption`, its name and strength, the images are corrupted as they are read.

    Raises:
        ValueError: the dataset has none of the detector's classes.
    """
    predict = partial(detector.find, tta=tta)
    plus_one = detector.decoder.plus_one
    return detect_with(
        predict, detector.classes, dataset, ids, batch, plus_one, workers, corruption
    )


def detect_with(
    predict: Callable[[list[Tensor]], Sequence[dict[str, Tensor]]],
    classes: Sequence[str],
    dataset: Dataset,
    ids: Iterable[int],
    batch: int = 1,
    plus_one: bool = False,
    workers: int = 0,
    corruption: Corruption | None = None,
) -> list[Result]:
    """The same for any callable from images to boxes, with its class names by label."""
    images = image_dataset(dataset, ids, corruption)
    categories = match_categories(classes, images)
    return detect_dataset(predict, images, categories, batch, workers, plus_one=plus_one)


def image_dataset(
    dataset: Dataset, ids: Iterable[int], corruption: Corruption | None = None
) -> CocoDataset:
    """The images of a dataset that have these ids, without their annotations.

    Raises:
        ImageError: a file is missing.
    """
    content = load_annotations(dataset.annotations, labelled=False)
    chosen = set(ids)
    content["images"] = [image for image in content["images"] if image["id"] in chosen]
    content["annotations"] = []
    return ImageDataset(content, dataset.images, corruption)


class ImageDataset(CocoDataset):
    """Images that are corrupted, if a corruption is given, as they are read."""

    def __init__(
        self, content: dict[str, Any], image_dir: str, corruption: Corruption | None
    ) -> None:
        super().__init__(content, image_dir, keep_empty=True)
        self.corruption = corruption

    def open(self, index: int) -> PILSample:
        image, target = super().open(index)
        if self.corruption:
            image = corrupt(image, *self.corruption, target["image_id"])
        return image, target


def figures(
    results: Sequence[Result],
    dataset: Dataset,
    ids: Sequence[int],
    evaluator: str = "pycocotools",
    max_detections: int = 100,
) -> dict[str, Any]:
    """COCO's twelve metrics, the AP of each class, and `analysis.analyse`, on these images; and the
    twelve of COCO-ReM's annotations as `rem`, where these lie beside the dataset's.

    All are None where the dataset has images only, like COCO's test-dev, whose detections its
    server evaluates. `split` is "val2017" for its 5,000 images, else the dataset's name. Only
    pycocotools keeps the matches that the analysis needs.

    Raises:
        ValueError: the dataset is called val2017 or minival but is neither.
    """
    split = split_name(dataset, ids)
    annotations = load_annotations(dataset.annotations, labelled=False)
    matched = coco_eval.match_detections(results, annotations, ids, evaluator, max_detections)
    measured = coco_eval.figures(matched)
    if measured["AP"] is not None and evaluator == "pycocotools":
        measured |= analysis.analyse(matched)
        measured |= _refined(results, dataset, ids, max_detections)
    return {**measured, "split": split, "detections": len(results), "evaluator": evaluator}


def split_name(dataset: Dataset, ids: Sequence[int]) -> str:
    """What these images are called; "val2017" only if they are its 5,000.

    Raises:
        ValueError: the dataset is called val2017 or minival but is neither.
    """
    if any(name in f"{dataset.name} {Path(dataset.annotations).name}" for name in MINIVAL):
        check_is_minival(dataset.annotations)
        whole = len(image_ids(dataset)) == len(ids)
        return "val2017" if whole else f"{len(ids)} images of val2017"
    return dataset.name


def _refined(
    results: Sequence[Result], dataset: Dataset, ids: Sequence[int], max_detections: int
) -> dict[str, Any]:
    """The twelve metrics by COCO-ReM's annotations, if these have all images and classes."""
    if not dataset.refined:
        return {}
    refined, own = (
        load_annotations(file, labelled=False) for file in (dataset.refined, dataset.annotations)
    )
    known = {image["id"] for image in refined["images"]}
    if not known.issuperset(ids) or category_names(refined) != category_names(own):
        return {}
    measured = coco_eval.evaluate_detections(results, refined, ids, max_detections=max_detections)
    return {"rem": {name: measured[name] for name in coco_eval.FIGURES}}


def corrupt(image: Image.Image, name: str, strength: int, image_id: int) -> Image.Image:
    """An image that is made worse, as cameras and networks do.

    Four of the corruptions of Hendrycks and Dietterich (ICLR 2019), on which Michaelis et al.
    (2019) measure detectors, with the parameters of their severities 1, 3 and 5.

    Args:
        image: in RGB.
        name: one of `CORRUPTIONS`.
        strength: 1, 2 or 3.
        image_id: seeds the noise, so that it is the same each time.
    """
    function, parameters = CORRUPTIONS[name]
    return function(image, parameters[strength - 1], image_id)


def _blur(image: Image.Image, sigma: float, image_id: int) -> Image.Image:
    """A Gaussian blur; `sigma` in pixels."""
    return image.filter(ImageFilter.GaussianBlur(sigma))


def _noise(image: Image.Image, sigma: float, image_id: int) -> Image.Image:
    """Gaussian noise; `sigma` as a part of white."""
    values = np.asarray(image, dtype=np.float32)
    added = np.random.default_rng((0, image_id)).standard_normal(values.shape, dtype=np.float32)
    return _image(values + 255 * sigma * added)


def _jpeg(image: Image.Image, quality: float, image_id: int) -> Image.Image:
    """Saved as a JPEG of this quality, between 1 and 95, and read again."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(quality))
    return Image.open(file).convert("RGB")


def _contrast(image: Image.Image, part: float, image_id: int) -> Image.Image:
    """Only this part of each value's distance from the mean of its channel is left."""
    values = np.asarray(image, dtype=np.float32)
    mean = values.mean((0, 1))
    return _image(mean + part * (values - mean))


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


# Each corruption with its parameters of strength 1, 2 and 3.
CORRUPTIONS: Mapping[
    str, tuple[Callable[[Image.Image, float, int], Image.Image], tuple[float, ...]]
] = {
    "blur": (_blur, (1, 3, 6)),
    "noise": (_noise, (0.08, 0.18, 0.38)),
    "jpeg": (_jpeg, (25, 15, 7)),
    "contrast": (_contrast, (0.4, 0.2, 0.05)),
}
