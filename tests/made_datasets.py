"""Small datasets as annotation tools export them: a street of 100x80 pixels, and an empty image.

The street has a dog in (10, 20, 40, 60) and a cat in (50, 10, 90, 70).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

DOG, CAT = (10, 20, 40, 60), (50, 10, 90, 70)
POLYGON = [[50, 10], [90, 30], [70, 70]]  # around the cat


def images(folder: Path, street: str = "street.jpg", empty: str = "empty.png") -> None:
    for name, size in ((street, (100, 80)), (empty, (60, 50))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "gray").save(folder / name)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def coco(path: Path, street: str = "street.jpg", empty: str = "empty.png") -> Path:
    rows = [{"id": 4, "image_id": 0, "category_id": 1, "bbox": [10, 20, 30, 40]}]
    rows += [{"id": 5, "image_id": 0, "category_id": 2, "bbox": [50, 10, 40, 60]}]
    names = [("pets", "none"), ("dog", "pets"), ("cat", "pets")]
    content = {
        "images": [
            {"id": 0, "file_name": street, "width": 100, "height": 80},
            {"id": 1, "file_name": empty, "width": 60, "height": 50},
        ],
        "annotations": rows,
        "categories": [
            {"id": i, "name": name, "supercategory": above} for i, (name, above) in enumerate(names)
        ],
    }
    return write(path, content)


def roboflow_coco(root: Path) -> None:
    for split in ("train", "valid", "test"):
        images(root / split)
        coco(root / split / "_annotations.coco.json")


def yolo_labels(path: Path) -> None:
    lines = ["0 0.25 0.5 0.3 0.5", "1 0.5 0.125 0.9 0.375 0.7 0.875"]
    write(path, "\n".join(lines) + "\n")


def roboflow_yolo(root: Path) -> None:
    for split in ("train", "valid"):
        images(root / split / "images")
        yolo_labels(root / split / "labels" / "street.txt")
        write(root / split / "labels" / "empty.txt", "")
    paths = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    write(root / "data.yaml", paths + "nc: 2\nnames: ['dog', 'cat']\n")


def ultralytics(root: Path) -> None:
    for split in ("train", "val"):
        images(root / "images" / split)
        yolo_labels(root / "labels" / split / "street.txt")  # none for the empty image
    paths = f"path: /datasets/{root.name}\ntrain: images/train\nval: [images/val]\n"
    write(root / "pets.yaml", paths + "names: {0: dog, 1: cat}\n")


def cvat_yolo(root: Path) -> None:
    images(root / "obj_train_data")
    yolo_labels(root / "obj_train_data" / "street.txt")
    listed = "data/obj_train_data/street.jpg\ndata/obj_train_data/empty.png\n"
    write(root / "train.txt", listed)
    write(root / "obj.names", "dog\ncat\n")
    write(root / "obj.data", "classes = 2\nnames = data/obj.names\ntrain = data/train.txt\n")


def label_studio_yolo(root: Path) -> None:
    images(root / "images")
    yolo_labels(root / "labels" / "street.txt")
    write(root / "classes.txt", "dog\ncat\n")
    write(root / "notes.json", {"categories": [{"id": 0, "name": "dog"}]})


def label_studio_coco(root: Path) -> None:
    images(root / "images", "0a1b2c3d-street.jpg", "1a1b2c3d-empty.png")
    coco(root / "result.json", "images\\0a1b2c3d-street.jpg", "images\\1a1b2c3d-empty.png")


def label_studio_json(root: Path) -> None:
    images(root / "images", "photo street.jpg", "empty.png")
    shape = {"original_width": 100, "original_height": 80, "type": "rectanglelabels"}
    dog = {"x": 10, "y": 25, "width": 30, "height": 50, "rotation": 0, "rectanglelabels": ["dog"]}
    points = [[x, y / 0.8] for x, y in POLYGON]
    regions = [shape | {"value": dog}]
    regions.append(shape | {"value": {"points": points, "polygonlabels": ["cat"]}})
    name = "/data/local-files/?d=photos/photo%20street.jpg"
    tasks = [{"id": 1, "data": {"image": name}, "annotations": [{"result": regions}]}]
    name = "/data/upload/1/0a1b2c3d-empty.png"
    tasks.append({"id": 2, "data": {"image": name}, "annotations": [{"result": []}]})
    tasks.append({"id": 3, "data": {"image": "not labelled.jpg"}, "annotations": []})
    write(root / "project-1.json", tasks)


def cvat_coco(root: Path) -> None:
    images(root / "images" / "default")
    coco(root / "annotations" / "instances_default.json")


def cvat_xml(root: Path) -> None:
    images(root / "images", "front/street.jpg")
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("dog", "cat"))
    points = ";".join(f"{x}.00,{y}.00" for x, y in POLYGON)
    box = '<box label="dog" xtl="10" ytl="20" xbr="40" ybr="60"/>'
    street = f'{box}<polygon label="cat" points="{points}"/><tag label="dog"/>'
    write(
        root / "annotations.xml",
        f"<annotations><version>1.1</version><meta><job><labels>{labels}</labels></job></meta>"
        f'<image id="0" name="front/street.jpg" width="100" height="80">{street}</image>'
        '<image id="1" name="empty.png" width="60" height="50"></image></annotations>',
    )


def voc_xml(path: Path, file_name: str, *objects: tuple[str, tuple[int, ...]]) -> None:
    content = f"<folder>x</folder><filename>{file_name}</filename><size><depth>3</depth></size>"
    for name, (left, top, right, bottom) in objects:
        box = f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}"
        content += f"<object><name>{name}</name><bndbox>{box}</ymax></bndbox></object>"
    write(path, f"<annotation>{content}</annotation>")


def label_img(root: Path) -> None:
    images(root)
    voc_xml(root / "street.xml", "street.jpg", ("dog", DOG), ("cat", CAT))
    voc_xml(root / "empty.xml", "another name.png")


def own_voc(root: Path) -> None:
    images(root / "JPEGImages")
    voc_xml(root / "Annotations" / "street.xml", "street.jpg", ("dog", DOG), ("cat", CAT))
    voc_xml(root / "Annotations" / "empty.xml", "empty.png")
    for split in ("train", "val"):
        write(root / "ImageSets" / "Main" / f"{split}.txt", "street\nempty\n")


def roboflow_voc(root: Path) -> None:
    label_img(root / "train")
    label_img(root / "valid")


def label_me(root: Path) -> None:
    images(root)
    dog = {"label": "dog", "points": [[40, 60], [10, 20]], "shape_type": "rectangle"}
    cat = {"label": "cat", "points": POLYGON, "shape_type": "polygon", "group_id": None}
    for name, size, shapes in (("street.jpg", (100, 80), [dog, cat]), ("empty.png", (60, 50), [])):
        content = {"version": "5.4", "flags": {}, "shapes": shapes, "imagePath": name}
        content |= {"imageData": None, "imageWidth": size[0], "imageHeight": size[1]}
        write((root / name).with_suffix(".json"), content)


DATASETS = {
    **{"Roboflow COCO": roboflow_coco, "Roboflow YOLO": roboflow_yolo, "Ultralytics": ultralytics},
    **{"CVAT YOLO": cvat_yolo, "Label Studio YOLO": label_studio_yolo, "CVAT COCO": cvat_coco},
    **{"Label Studio COCO": label_studio_coco, "CVAT for images": cvat_xml, "labelImg": label_img},
    **{"Label Studio JSON": label_studio_json},
    **{"own VOC": own_voc, "Roboflow VOC": roboflow_voc, "LabelMe": label_me},
}
