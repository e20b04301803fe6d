"""Batches reach the training process whole, and a slot that was written too early is noticed."""

import numpy as np
import pytest
import torch
from PIL import Image

from fcos.data.handover import Handover, Place


def pictures(count, size=(20, 10)):
    rng = np.random.default_rng(count)
    return [
        (
            Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)),
            {"boxes": np.full((n, 4), n, dtype=np.float32), "file_name": f"{n}.jpg"},
        )
        for n in range(count)
    ]


def assert_whole(batch, unpacked):
    for (image, target), tensor, tensors in zip(batch, *unpacked, strict=True):
        assert np.array_equal(np.asarray(image), tensor.permute(1, 2, 0))
        assert tensors["file_name"] == target["file_name"]
        assert torch.equal(tensors["boxes"], torch.from_numpy(target["boxes"]))


def test_images_and_targets_arrive_as_they_were():
    handover = Handover(workers=1, prefetch=2)
    batches = [pictures(count) for count in (1, 3, 2)]
    packed = [handover.pack(batch) for batch in batches]
    assert all(isinstance(source, Place) for batch in packed for source, _ in batch)
    for batch, there in zip(batches, packed, strict=True):
        assert_whole(batch, handover.unpack(there, pin_memory=False))


def test_images_beyond_the_room_go_another_way():
    handover = Handover(workers=1, prefetch=1, room=1500)  # two images of 600 bytes
    batch = [*pictures(2), *pictures(1, size=(40, 30)), *pictures(1, size=(5, 5))]
    packed = handover.pack(batch)
    assert [isinstance(source, Place) for source, _ in packed] == [True, True, False, True]
    assert_whole(batch, handover.unpack(packed, pin_memory=False))


def test_what_was_unpacked_is_not_written_over():
    handover = Handover(workers=1, prefetch=1)
    batch = pictures(2)
    unpacked = handover.unpack(handover.pack(batch), pin_memory=False)
    for _ in range(5):
        handover.pack(pictures(4))
    assert_whole(batch, unpacked)


def test_views_last_until_the_batch_after_the_next():
    handover = Handover(workers=1, prefetch=1)
    batches = [pictures(count) for count in (1, 3, 2)]
    views = []
    for batch in batches:
        views.append(handover.unpack(handover.pack(batch), views=True))
        assert_whole(batch, views[-1])
    assert_whole(batches[1], views[1])


def test_a_slot_written_before_it_was_read_is_an_error():
    handover = Handover(workers=1, prefetch=1)  # three slots
    first = handover.pack(pictures(1))
    for _ in range(3):
        handover.pack(pictures(1))
    with pytest.raises(RuntimeError, match="worker 0 wrote batch 4 over batch 1"):
        handover.unpack(first, pin_memory=False)


def test_each_image_is_handed_over_before_the_next_one_is_made():
    handover = Handover(workers=1, prefetch=1)
    batch = pictures(3)

    def made_one_by_one():
        for number, picture in enumerate(batch):
            laid = handover.pixels[0, 1, : number * 600].reshape(number, 10, 20, 3)
            assert all(np.array_equal(laid[i], np.asarray(batch[i][0])) for i in range(number))
            yield picture

    assert_whole(batch, handover.unpack(handover.pack(made_one_by_one()), pin_memory=False))
