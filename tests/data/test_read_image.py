"""Every kind of image file becomes 8-bit RGB of the annotated size, or is refused by name."""

import struct
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image, ImageOps

from benchmarks.inference import peak_rss_mb, reset_peak_rss
from fcos.image_io import ORIENTATION, ImageError, image_size, read_image

SIZE = (12, 16)  # height, width


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8))


def same(image: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.array(image), np.array(other))


def rotated(picture: Image.Image, path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture.save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        *((mode, "a.png") for mode in ("L", "1", "P", "RGBA", "LA")),
        ("L", "a.jpg"),
        ("CMYK", "a.jpg"),
    ],
)
def test_other_modes_are_converted_to_rgb(picture, tmp_path, mode, name):
    picture.convert(mode).save(tmp_path / name)
    image = read_image(tmp_path / name, SIZE)
    assert (image.mode, image.height, image.width) == ("RGB", *SIZE)
    assert same(image, Image.open(tmp_path / name).convert("RGB"))


def test_16_bit_keeps_the_high_byte(tmp_path):
    values = np.array([[0, 255, 256], [1000, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    red, green, _ = read_image(tmp_path / "deep.png").split()
    assert np.array(red).tolist() == [[0, 0, 1], [3, 128, 255]]
    assert same(red, green)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 7, 255]], dtype=np.int32), [0, 7, 255]),
        (np.array([[0, 7, 255]], dtype=np.uint16), [0, 7, 255]),
        (np.array([[0, 256, 4095]], dtype=np.uint16), [0, 16, 255]),
        (np.array([[0, 256, 4095]], dtype=np.int32), [0, 16, 255]),
    ],
)
def test_integers_of_8_or_12_bits_are_not_made_black(tmp_path, values, expected):
    Image.fromarray(values).save(tmp_path / "a.tiff")
    with pytest.warns(UserWarning, match="judged by its largest value"):
        image = read_image(tmp_path / "a.tiff")
    assert np.array(image)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_16_bits_are_refused(tmp_path, value):
    Image.fromarray(np.array([[0, value]], dtype=np.int32)).save(tmp_path / "a.tiff")
    with pytest.raises(ImageError, match=r"a\.tiff: .*have no known range"):
        read_image(tmp_path / "a.tiff")


@pytest.mark.filterwarnings("ignore")  # Pillow's, of the damaged EXIF
def test_a_malformed_exif_tag_does_not_make_an_image_unreadable(picture, tmp_path):
    """Each byte of the EXIF data is overwritten in turn; the pixels stay good."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x9286] = b"comment"
    data = bytearray(exif.tobytes())
    for position in range(8, len(data)):
        broken = bytes(data[:position]) + b"\xff" + bytes(data[position + 1 :])
        picture.save(tmp_path / "a.png", exif=broken)
        image = read_image(tmp_path / "a.png")
        assert sorted((image.height, image.width)) == sorted(SIZE)


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_exif_orientation_is_that_of_pillow(picture, tmp_path, turn):
    path = rotated(picture, tmp_path / "turned.png", turn)
    assert same(read_image(path), ImageOps.exif_transpose(Image.open(path)))


def test_exif_rotation_is_applied_unless_the_annotations_are_of_the_stored_pixels(
    picture, tmp_path
):
    path = rotated(picture, tmp_path / "turned.png", 6)
    upright = read_image(path, (16, 12))
    assert same(upright, read_image(path))
    assert same(upright, picture.transpose(Image.Transpose.ROTATE_270))
    assert same(read_image(path, SIZE), picture)


def test_truncated_unreadable_missing_and_float_images_are_refused_by_name(picture, tmp_path):
    whole = tmp_path / "whole.jpg"
    picture.resize((160, 120)).save(whole)
    (tmp_path / "truncated.jpg").write_bytes(whole.read_bytes()[:-400])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    Image.fromarray(np.ones(SIZE, dtype=np.float32)).save(tmp_path / "float.tiff")
    for name in ("truncated.jpg", "empty.jpg", "page.jpg", "float.tiff"):
        with pytest.raises(ImageError, match=f"{name}: not a readable image") as error:
            read_image(tmp_path / name)
        assert error.value.kind == "image unreadable"
    with pytest.raises(ImageError, match=r"absent.jpg: no such file"):
        read_image(tmp_path / "absent.jpg")


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged metadata
def test_errors_of_the_decoder_name_the_file(picture, tmp_path):
    """Each byte of a file's head set to other values: read, or refused; nothing else."""
    path = tmp_path / "a.avif"
    for name in ("a.jpg", "a.png", "a.webp", "a.bmp", "a.tiff"):
        picture.save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for position in range(min(len(whole), 60)):
            path.write_bytes(
                whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :]
            )
            with suppress(ImageError):
                assert read_image(path).mode == "RGB"


@pytest.mark.parametrize("open_it", [read_image, image_size])
def test_an_image_beyond_the_limit_of_pixels_is_refused_undecoded(tmp_path, open_it):
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\4IDAT")
    with pytest.raises(ImageError, match=r"a\.png: .*exceeds limit of 178956970 pixels"):
        open_it(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore")  # of integers in 32 bits
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak of memory")
@pytest.mark.parametrize(
    ("mode", "name", "bytes_per_pixel"),
    [("RGB", "a.jpg", 4), ("RGBA", "a.png", 12), ("I", "a.tiff", 12), ("RGB", "a.webp", 16)],
)
def test_decoding_needs_the_stated_memory(tmp_path, mode, name, bytes_per_pixel):
    exif = Image.Exif()
    if bytes_per_pixel == 12:
        exif[ORIENTATION] = 6
    Image.new(mode, (3000, 3000)).save(tmp_path / name, exif=exif, method=0)
    read_image(tmp_path / name)  # loads the decoder
    reset_peak_rss()
    before = psutil.Process().memory_info().rss / 2**20
    read_image(tmp_path / name)
    assert peak_rss_mb() - before <= bytes_per_pixel * 3000**2 / 2**20 + 20


def test_a_folder_and_names_of_any_script(picture, tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(ImageError, match=r"folder\.jpg: not a readable image"):
        read_image(tmp_path / "folder.jpg")
    picture.save(tmp_path / "ünïcode 写真.png")
    assert same(read_image(tmp_path / "ünïcode 写真.png"), picture)


def test_an_image_of_another_size_than_annotated_is_refused(picture, tmp_path):
    picture.save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a.png: the image is 16x12, its annotations say 12x12"):
        read_image(tmp_path / "a.png", (12, 12))
