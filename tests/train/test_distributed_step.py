"""A step of two processes, or of two micro-batches, is that of one process on all images."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_ranks import CASES, one_step


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The results of `two_ranks.py` on two gloo processes."""
    out = tmp_path_factory.mktemp("ranks") / "found.pth"
    script = Path(__file__).with_name("two_ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(script), str(out)], check=True, env=environment, timeout=600)
    return torch.load(out)


def assert_close(found, expected):
    for mine, its in zip(found, expected, strict=True):
        assert mine.keys() == its.keys()
        for key in its:
            torch.testing.assert_close(
                torch.as_tensor(mine[key]), torch.as_tensor(its[key]), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one(two_processes, case):
    detector_options, trainer_options = CASES[case]
    expected = one_step(detector_options, {**trainer_options, "accumulate": 1})
    assert_close(two_processes[case], expected)


def test_all_processes_raise_the_error_of_the_first(two_processes):
    first, second = two_processes["errors"]
    assert "'of rank 0'" in first
    assert first == second


def test_all_processes_learn_of_a_signal_that_one_received(two_processes):
    assert two_processes["largest rank"] == 1


def test_a_record_counts_the_images_of_all_processes(two_processes):
    record = two_processes["record"]
    assert (record["images"], record["unreadable_images"]) == (2, 3)


@pytest.mark.parametrize(
    "loss",
    [
        {"normalizer": "positives"},
        {"normalizer": "moving"},
        {"normalizer": "positives+images"},
        {"normalizer": "positives+images", "normalizer_group": 2},
    ],
)
@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_make_the_whole_step(loss, accumulate):
    options = {"norm": "frozen_bn", "head_norm": "gn", **loss}
    assert_close(
        one_step(options, {"accumulate": accumulate}), one_step(options, {"accumulate": 1})
    )
