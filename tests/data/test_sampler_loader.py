"""Batches: seeded, endless, resumable at the exact image, the same for any number of processes."""

import gc
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from itertools import chain, islice
from multiprocessing import active_children

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fcos.data.dataset import CocoDataset
from fcos.data.loader import Loader, TrainingSampler, ordered_batches
from fcos.data.shapes import write
from fcos.data.transforms import Compose, HorizontalFlip, ResizeShortestSide
from fcos.image_io import ImageError

PORTRAIT = [i % 3 == 0 for i in range(23)]


def steps(count, **arguments):
    return list(islice(TrainingSampler(PORTRAIT, **{"batch": 8, "seed": 1, **arguments}), count))


def indices(batches):
    return [sample.index for batch in batches for sample in batch]


def test_every_image_appears_once_an_epoch():
    drawn = indices(steps(46, group=1))  # 46 steps of 8 are 16 epochs of 23
    assert set(Counter(drawn).values()) == {16}
    assert drawn[:23] != drawn[23:46]
    assert sorted(drawn[:23]) == list(range(23))


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 5))
def test_resuming_continues_with_the_exact_image(start, group, seed):
    whole = steps(start + 5, group=group, seed=seed)
    assert steps(5, group=group, seed=seed, start=start) == whole[start:]


@pytest.mark.parametrize("world", [2, 4, 8])
def test_processes_share_the_batches_of_one(world):
    single = steps(10)
    shares = [steps(10, rank=rank, world=world) for rank in range(world)]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == single


def test_groups_share_an_orientation_and_leave_nothing_out():
    drawn = indices(steps(100, group=4))
    groups = [drawn[start : start + 4] for start in range(0, len(drawn), 4)]
    assert all(len({PORTRAIT[index] for index in group}) == 1 for group in groups)
    counted = Counter(drawn)
    assert len(counted) == len(PORTRAIT)
    assert max(counted.values()) - min(counted.values()) <= 2


def test_every_sample_is_augmented_with_its_own_seed():
    seeds = [sample.seed for batch in steps(20) + steps(20, seed=2) for sample in batch]
    assert len(set(seeds)) == len(seeds)
    assert indices(steps(5)) != indices(steps(5, seed=2))


def test_a_dataset_smaller_than_a_batch():
    (batch,) = islice(TrainingSampler([True, False], batch=8, seed=0, group=1), 1)
    assert Counter(sample.index for sample in batch) == {0: 4, 1: 4}


def test_datasets_that_cannot_be_sampled_are_refused():
    with pytest.raises(ValueError, match="10 images cannot be shared equally by 4 processes"):
        TrainingSampler(PORTRAIT, batch=10, seed=0, world=4)
    with pytest.raises(ValueError, match="empty dataset"):
        TrainingSampler([], batch=2, seed=0)


def test_evaluation_takes_every_image_once_in_order():
    shares = [ordered_batches(7, batch=2, rank=rank, world=3) for rank in range(3)]
    assert [indices(share) for share in shares] == [[0, 3, 6], [1, 4], [2, 5]]
    assert [len(batch) for batch in shares[0]] == [2, 1]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    return CocoDataset(write(folder, count=20, size=64), folder / "images")


AUGMENT = Compose([ResizeShortestSide((40, 60), sample="range"), HorizontalFlip()])


@pytest.fixture
def no_other_workers():
    """Ends the workers of loaders that earlier tests have left to the garbage collector."""
    gc.collect()


def load(dataset, count, workers, start=0, **options):
    sampler = TrainingSampler(dataset.portrait, batch=4, seed=3, start=start)
    return list(islice(Loader(dataset, sampler, AUGMENT, workers, **options), count))


def assert_equal(batch, other):
    for image, target, image_again, target_again in zip(*batch, *other, strict=True):
        assert torch.equal(image, image_again)
        assert torch.equal(target["boxes"], target_again["boxes"])
        assert torch.equal(target["labels"], target_again["labels"])
        assert target["image_id"] == target_again["image_id"]


def test_batches_are_the_same_for_any_number_of_workers_and_after_resuming(dataset):
    state = torch.get_rng_state()
    expected = load(dataset, 5, workers=0)
    for batch, other in zip(expected, load(dataset, 5, workers=2), strict=True):
        assert_equal(batch, other)
    for batch, other in zip(expected[3:], load(dataset, 2, workers=1, start=3), strict=True):
        assert_equal(batch, other)
    assert torch.equal(torch.get_rng_state(), state)  # that of training


def test_workers_may_be_spawned(dataset):
    """Windows and macOS spawn processes: the dataset and its transforms are sent to them."""
    spawned = load(dataset, 3, workers=1, start_method="spawn")
    for batch, other in zip(load(dataset, 3, workers=0), spawned, strict=True):
        assert_equal(batch, other)


def test_workers_start_with_the_iteration_and_are_kept(dataset, no_other_workers):
    """A caller can start them before it starts threads, whose locks forked workers would keep."""
    loader = Loader(dataset, ordered_batches(len(dataset)), workers=2)
    assert not active_children()
    batches = iter(loader)
    workers = active_children()
    assert len(workers) == 2
    for batch, other in zip(list(batches), loader, strict=True):
        assert_equal(batch, other)
    assert set(active_children()) == set(workers)


def test_without_transforms_images_come_as_they_are(dataset):
    batches = Loader(dataset, ordered_batches(len(dataset), 3), workers=1)
    images = [image for batch, _ in batches for image in batch]
    assert all(torch.equal(image, dataset[i][0]) for i, image in enumerate(images))
    assert len(images) == len(dataset)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_reported_in_one_line(tmp_path, workers):
    dataset = CocoDataset(write(tmp_path, count=4, size=64), tmp_path / "images")
    broken = next((tmp_path / "images").iterdir())
    broken.write_bytes(b"nothing")
    try:
        list(Loader(dataset, ordered_batches(len(dataset), 2), workers=workers))
    except ImageError as error:
        message, kind = str(error), error.kind
    assert message.startswith(f"{broken}: not a readable image")
    assert "\n" not in message
    assert kind == "image unreadable"


@pytest.mark.skipif(sys.platform != "linux", reason="file descriptors are counted in /proc")
def test_a_batch_takes_one_file_descriptor_however_many_images_it_has(dataset, no_other_workers):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    batches = iter(Loader(dataset, ordered_batches(len(dataset), 4), workers=1, prefetch=1))
    kept = [next(batches)]
    before = descriptors()
    kept += [next(batches) for _ in range(3)]
    assert descriptors() - before <= 3


class Exhausted(CocoDataset):
    """Its images need more file descriptors than a process has."""

    def open(self, index):
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (1, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
        return Image.new("RGB", (64, 64)), self.target(index)


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")
def test_workers_without_shared_memory_name_the_remedy(tmp_path):
    dataset = Exhausted(write(tmp_path, count=4, size=64), tmp_path / "images")
    with pytest.raises(RuntimeError, match=r"enlarge /dev/shm .* or lower data\.workers"):
        list(Loader(dataset, ordered_batches(len(dataset), 2), workers=1))


def test_workers_leave_signals_to_the_main_process(dataset, no_other_workers):
    batches = iter(Loader(dataset, TrainingSampler(dataset.portrait, 2, 0), AUGMENT, 1, prefetch=1))
    next(batches)
    (worker,) = active_children()
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        os.kill(worker.pid, number)
    for _ in range(5):
        next(batches)
    assert worker.is_alive()


def test_a_program_ends_with_its_workers_even_after_an_error(tmp_path):
    """The traceback of an uncaught error keeps the iterator, so that nobody closes it before."""
    write(tmp_path, count=4, size=64)
    program = """
import sys
from fcos.data.dataset import CocoDataset
from fcos.data.loader import Loader, TrainingSampler
dataset = CocoDataset(f"{sys.argv[1]}/annotations.json", f"{sys.argv[1]}/images")
batches = iter(Loader(dataset, TrainingSampler(dataset.portrait, 2, 0), workers=1))
next(batches)
raise SystemExit("an error")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (1, "an error\n")
