"""A dataset, a trainer and a command that take a CPU seconds."""

import pytest
import tiny_detector
import torch
from tiny_detector import ENTRY, SHORT

from fcos.data.dataset import CocoDataset
from fcos.data.loader import Loader, TrainingSampler
from fcos.data.shapes import write
from fcos.train.optim import Schedule, make_optimizer
from fcos.train.trainer import Trainer
from tools import cli


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
    """A trainer of a tiny detector on the eight images; other arguments are of `Trainer`."""

    def make(
        detector=None, folder="run", iterations=6, batch=4, lr=0.02, transforms=None, **options
    ):
        def batches(start):
            sampler = TrainingSampler(dataset.portrait.tolist(), batch, seed=1, start=start)
            return Loader(dataset, sampler, transforms, workers=0)

        detector = detector or tiny_detector.make_detector()
        return Trainer(
            detector,
            options.pop("batches", batches),
            make_optimizer(detector, lr, fused=options.pop("fused", False)),
            Schedule(iterations),
            tmp_path / folder,
            options.pop("name", "tiny"),
            epoch=len(dataset) / batch,
            **{"log_every": 1, "checkpoint_every": 2, **options},
        )

    return make


@pytest.fixture
def data(tmp_path):
    """The annotations of eight drawn images, which a test may change."""
    return write(tmp_path / "data", 8, seed=3, size=96)


@pytest.fixture
def train(data, tmp_path):
    """`fcos-zoo train` of two steps on these images in the folder `run`; returns the exit code."""

    def run(*arguments):
        given = [f"data.train={data}", f"run.folder={tmp_path / 'run'}", *SHORT, *arguments]
        return cli.main(["train", ENTRY, *given])

    return run
