"""From pictures to the network's input."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from fcos import ImageNormalizer
from fcos.images import image_batches, load_image
from fcos.preprocess import ResizeMethod, _pillow_weights, resize_as_pillow, resize_image

BGR = {"mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0]}
RGB_UNIT = {
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "channel_order": "RGB",
    "value_range": 1,
}


def test_every_form_of_an_image_gives_the_same_tensor(tmp_path: Path, picture: Tensor) -> None:
    array = picture.permute(1, 2, 0).numpy()
    pil = Image.fromarray(array)
    pil.save(tmp_path / "picture.png")
    path, read_only = tmp_path / "picture.png", np.asarray(pil)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in (path, str(path), path.read_bytes(), pil, array, read_only, picture):
            assert torch.equal(load_image(form), picture)
    with path.open("rb") as file:
        assert torch.equal(load_image(file), picture)


def test_opened_images_are_read_as_their_files(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2), "red").save(tmp_path / "landscape.jpg", exif=exif)
    expected = torch.from_numpy((deep >> 8).astype(np.uint8)).expand(3, 16, 16)
    assert torch.equal(load_image(tmp_path / "deep.png"), expected)
    assert load_image(tmp_path / "landscape.jpg").shape == (3, 4, 2)
    for name in ("deep.png", "landscape.jpg"):
        with Image.open(tmp_path / name) as opened:
            assert torch.equal(load_image(opened), load_image(tmp_path / name))


@pytest.mark.parametrize(
    ("scale", "shift", "found"), [(255, 0, "from 0 to 255"), (4, -2, "from -2 to 2")]
)
def test_floats_outside_0_to_1_are_refused_by_their_range(
    picture: Tensor, scale: float, shift: float, found: str
) -> None:
    unit = picture / 255
    assert torch.equal(load_image(unit), unit)
    with pytest.raises(ValueError, match=f"image 3 has values {found}; floats must lie in 0..1"):
        load_image(unit * scale + shift, index=3)


def test_a_generator_is_read_a_batch_at_a_time(picture: Tensor) -> None:
    loaded: list[int] = []

    def camera() -> Iterator[Tensor]:
        for number in range(5):
            loaded.append(number)
            yield picture

    batches = image_batches(camera(), 2)
    assert len(next(batches)) == 2
    assert loaded == [0, 1]
    assert [len(batch) for batch in batches] == [2, 1]


def test_greyscale_images_get_three_channels() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for form in (grey, Image.fromarray(grey)):
        assert torch.equal(load_image(form), torch.from_numpy(grey).expand(3, 3, 4))


@pytest.mark.parametrize(
    ("form", "error", "message"),
    [
        ("nowhere.jpg", FileNotFoundError, "no such image: nowhere.jpg"),
        (__file__, ValueError, "test_images.py: not a readable image"),
        (b"GIF89a and no more", ValueError, "the bytes given: not a readable image"),
        (7, TypeError, "not int"),
        (np.zeros((4, 4, 3)) - 2, TypeError, "this one is float64 with values from -2 to -2"),
        (np.full((4, 4, 3), "red"), TypeError, "must be uint8"),
        (np.zeros((4, 4, 2), np.uint8), ValueError, r"must have shape \(H, W, 3\)"),
    ],
)
def test_other_arrays_and_files_are_refused_by_name(
    form: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_image(form)  # type: ignore[arg-type]


def test_an_image_is_a_copy_of_what_it_was_made_from(picture: Tensor) -> None:
    for source in (picture.clone(), picture.permute(1, 2, 0).numpy().copy()):
        loaded = load_image(source)
        source[:] = 0  # a camera's buffer, say
        assert torch.equal(loaded, picture)


def test_the_resize_is_pillows(picture: Tensor) -> None:
    pil = Image.fromarray(picture.permute(1, 2, 0).numpy())
    expected = np.array(pil.resize((45, 31), Image.Resampling.BILINEAR))
    assert np.array_equal(resize_image(picture, (31, 45)).permute(1, 2, 0).numpy(), expected)


@given(st.tuples(*[st.integers(1, 90)] * 4), st.integers(0, 2**32))
def test_a_gpu_resizes_bit_for_bit_as_pillow(sides: tuple[int, int, int, int], seed: int) -> None:
    height, width, *size = sides
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    expected = resize_image(image, (size[0], size[1]))
    assert torch.equal(resize_as_pillow(image, (size[0], size[1])), expected)


def test_resizing_ignores_torchs_default_device(picture: Tensor) -> None:
    expected = resize_as_pillow(picture, (29, 43))
    _pillow_weights.cache_clear()
    with torch.device("meta"):
        assert torch.equal(resize_as_pillow(picture, (29, 43)), expected)


def test_the_layout_of_an_image_changes_nothing(picture: Tensor) -> None:
    interleaved = picture.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(resize_image(interleaved, (31, 45)), resize_image(picture, (31, 45)))


def test_float_images_are_resized_like_uint8_images(picture: Tensor) -> None:
    assert torch.equal(resize_image(picture / 255, (31, 45)), resize_image(picture, (31, 45)))


def test_images_are_normalised_in_the_networks_channel_order(picture: Tensor) -> None:
    bgr = ImageNormalizer(**BGR)([picture]).tensor[0, :, :60, :90]
    assert torch.equal(bgr[2], picture[0].float() - 123.675)
    rgb = ImageNormalizer(**RGB_UNIT)([picture]).tensor[0, :, :60, :90]
    assert torch.allclose(rgb[0], (picture[0].float() / 255 - 0.485) / 0.229)


@pytest.mark.parametrize("options", [BGR, RGB_UNIT])
def test_uint8_and_float_images_are_the_same_input(options: dict, picture: Tensor) -> None:
    normalizer = ImageNormalizer(**options)
    torch.testing.assert_close(
        normalizer([picture]).tensor, normalizer([picture / 255]).tensor, rtol=0, atol=1e-4
    )


def test_a_batch_is_padded_with_zeros_at_the_right_and_bottom(picture: Tensor) -> None:
    batch = ImageNormalizer(**BGR)([picture, picture[:, :40, :50]])
    assert batch.tensor.shape == (2, 3, 64, 96)
    assert batch.sizes == [(60, 90), (40, 50)]
    assert batch.offsets == [(0, 0), (0, 0)]
    assert not batch.tensor[1, :, 40:].any()
    assert not batch.tensor[1, :, :, 50:].any()


def test_a_square_view_is_black_around_the_centred_image(picture: Tensor) -> None:
    normalizer = ImageNormalizer(**RGB_UNIT, divisor=32, square=True)
    batch = normalizer([picture])
    assert batch.tensor.shape == (1, 3, 97, 97)
    assert batch.offsets == [(18, 4)]
    black = normalizer.normalize(torch.zeros(3, 1, 1, dtype=torch.uint8))
    assert torch.equal(batch.tensor[0, :, :18], black.expand(3, 18, 97))
    assert torch.equal(batch.tensor[0, :, 18:78, 4:94], normalizer.normalize(picture))


@pytest.mark.parametrize("size", [(30, 45), (100, 150)])
def test_antialias_is_pillow_s_filter_without_rounding(
    picture: Tensor, size: tuple[int, int]
) -> None:
    expected = resize_image(picture, size, "pil").float()
    resized = resize_image(picture, size, "antialias") * 255
    assert float((resized - expected).abs().max()) <= 1.01  # Pillow rounds after either direction


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", ["pil", "opencv", "antialias", "tensor"])
def test_floats_of_every_precision_are_resized(
    picture: Tensor, method: ResizeMethod, dtype: torch.dtype
) -> None:
    image = (picture / 255).to(dtype)
    resized = resize_image(image, (30, 45), method)
    torch.testing.assert_close(resized, resize_image(image.float(), (30, 45), method))


@pytest.mark.parametrize("method", ["pil", "antialias", "tensor"])
def test_images_are_resized_on_the_given_device(picture: Tensor, method: ResizeMethod) -> None:
    resized = resize_image(picture, (30, 45), method, device="meta")
    assert (resized.device.type, tuple(resized.shape)) == ("meta", (3, 30, 45))
