"""A detector of somebody else, as its adapter brings it to the tables."""

import torch


def two_boxes(device, precision):
    def detect(pictures):
        boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [5.0, 5.0, 20.0, 20.0]])
        found = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8]), "labels": torch.tensor([0, 1])}
        return [found for _ in pictures]

    detect.classes = ("person", "dog")
    return detect


def nameless(device, precision):
    found = two_boxes(device, precision)
    return lambda pictures: found(pictures)
