"""A dataset and a trainer that take a CPU seconds."""

import pytest
import tiny_detector
import torch

from fcos.data.coco import CocoDataset
from fcos.data.loader import Loader
from fcos.data.sampler import TrainingSampler
from fcos.data.shapes import write
from fcos.train.optim import Schedule, make_optimizer
from fcos.train.trainer import Trainer


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Eight drawn images."""
    return write(tmp_path_factory.mktemp("shapes"), 8, seed=5, size=tiny_detector.SIZE, most=5)


@pytest.fixture(scope="session")
def dataset(shapes):
    return CocoDataset(shapes, shapes.parent / "images", keep_empty=True)


@pytest.fixture
def make_trainer(dataset, tmp_path):
    """A trainer of `make_detector` on the eight images; other arguments are of `Trainer`."""

    def make(detector, folder="run", iterations=6, batch=4, lr=0.02, transforms=None, **options):
        def batches(start):
            sampler = TrainingSampler(dataset.portrait.tolist(), batch, seed=1, start=start)
            return Loader(dataset, sampler, transforms, workers=0)

        return Trainer(
            detector,
            options.pop("batches", batches),
            make_optimizer(detector, lr, fused=options.pop("fused", False)),
            Schedule(iterations),
            tmp_path / folder,
            "tiny",
            epoch=len(dataset) / batch,
            **{"log_every": 1, "checkpoint_every": 2, **options},
        )

    return make


@pytest.fixture
def make_detector():
    return tiny_detector.make_detector
