"""What a wheel would carry."""

from __future__ import annotations

import importlib
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("zoo", "backbones", "fcos", "configs", "benchmarks", "reports", "tools")


@pytest.fixture(scope="module")
def setuptools() -> dict[str, Any]:
    toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return toml.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


@pytest.mark.parametrize(
    ("folder", "pattern"),
    [
        ("configs", "*.yaml"),
        ("reports/published", "*"),
        ("benchmarks/data", "*"),
        ("fcos", "py.typed"),
        ("zoo", "py.typed"),
        ("backbones", "py.typed"),
    ],
)
def test_data_of_the_packages_is_carried(
    setuptools: dict[str, Any], folder: str, pattern: str
) -> None:
    wanted = {path for path in (ROOT / folder).rglob(pattern) if path.is_file()}
    package = folder.split("/")[0]
    globs = setuptools["package-data"][package]
    carried = {path for pattern in globs for path in (ROOT / package).glob(pattern)}
    assert wanted
    assert wanted <= carried


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_code_is_a_package(setuptools: dict[str, Any], package: str) -> None:
    assert any(fnmatchcase(package, p) for p in setuptools["packages"]["find"]["include"])
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    assert folders
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_embedded_images_have_their_credits() -> None:
    data = ROOT / "benchmarks" / "data" / "coco_val_ccby"
    credits = (data / "CREDITS.md").read_text()
    images = sorted((data / "images").iterdir())
    assert len(images) == 31
    assert all(image.stem.lstrip("0") in credits for image in images)
