"""Small whole files of every annotation format and weight container, for `fuzz_run` to break.

A case is a function that writes its files into an empty folder and returns the path that `open_dataset` gets, or that
of a weight file. Each holds what its format can hold: several objects, holes, crowds, run lengths.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from mrcnn.ops.rle import encode_masks

H, W = 30, 40
CORNERS = [3.0, 2.0, 12.5, 2.0, 12.0, 9.0, 3.0, 8.0]
CLASSES = ["cat", "dog"]


def photo(path: Path, name: str = "a.png") -> str:
    path.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:H, :W]
    Image.fromarray(np.stack([y * 3, x * 3, y + x], axis=-1).astype(np.uint8)).save(path / name)
    return name


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def block(value: int = 255) -> Image.Image:
    values = np.zeros((H, W), np.uint8)
    values[3:9, 4:12] = value
    return Image.fromarray(values)


# ---- Annotations -----------------------------------------------------------------------------------------------------
def coco(folder: Path) -> Path:
    masks = [
        [CORNERS, [20, 20, 28, 20, 24, 28]],
        {"size": [H, W], "counts": [35, 5, 25, 5, H * W - 70]},
        {"size": [H, W], "counts": encode_masks(np.eye(H, W, dtype=bool)[..., None])[0]["counts"].decode()},
    ]
    annotations = [
        {"id": i, "image_id": 7, "category_id": 3 + i % 2, "segmentation": mask, "iscrowd": i % 2, "area": 9.5,
         "bbox": [3, 2, 9, 7]}
        for i, mask in enumerate(masks)
    ]  # fmt: skip
    images = [{"id": 7, "file_name": photo(folder), "height": H, "width": W}]
    categories = [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}]
    return write(folder / "a.json", {"images": images, "annotations": annotations, "categories": categories})


def via(folder: Path) -> Path:
    shapes = [
        {"name": "polygon", "all_points_x": CORNERS[::2], "all_points_y": CORNERS[1::2]},
        {"name": "polyline", "all_points_x": CORNERS[::2], "all_points_y": CORNERS[1::2]},
        {"name": "rect", "x": 3, "y": 4, "width": 9, "height": 8},
        {"name": "circle", "cx": 13, "cy": 14, "r": 5},
        {"name": "ellipse", "cx": 13, "cy": 14, "rx": 5, "ry": 3, "theta": 0.3},
        {"name": "point", "cx": 13, "cy": 14},
    ]
    regions = [
        {"shape_attributes": shape, "region_attributes": {"kind": CLASSES[i % 2]}} for i, shape in enumerate(shapes)
    ]
    options = {"region": {"kind": {"type": "radio", "options": dict.fromkeys(CLASSES, "")}}}
    entry = {"filename": photo(folder), "size": 999, "regions": regions, "file_attributes": {}}
    project = {"_via_settings": {}, "_via_img_metadata": {"a.png999": entry}, "_via_attributes": options}
    return write(folder / "via_region_data.json", project)


def via_csv(folder: Path) -> Path:
    shapes = [
        {"name": "polygon", "all_points_x": CORNERS[::2], "all_points_y": CORNERS[1::2]},
        {"name": "rect", "x": 3, "y": 4, "width": 9, "height": 8},
    ]
    header = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    rows = [header]
    for i, shape in enumerate(shapes):
        texts = [json.dumps(value).replace('"', '""') for value in (shape, {"kind": CLASSES[i]})]
        rows.append(f'{photo(folder)},999,"{{}}",2,{i},"{texts[0]}","{texts[1]}"')
    return write(folder / "via.csv", "\n".join(rows))


def labelme(folder: Path) -> Path:
    corners = [CORNERS[i : i + 2] for i in range(0, 8, 2)]
    png = io.BytesIO()
    block().crop((4, 3, 12, 9)).save(png, "PNG")
    kinds = {
        "polygon": corners, "rectangle": corners[:2], "circle": corners[:2], "line": corners[:2],
        "linestrip": corners, "point": corners[:1], "mask": [[4, 3], [11, 8]],
    }  # fmt: skip
    shapes = [
        {"label": CLASSES[i % 2], "points": points, "shape_type": kind, "group_id": 1 if i < 4 else None, "flags": {},
         "mask": base64.b64encode(png.getvalue()).decode() if kind == "mask" else None}
        for i, (kind, points) in enumerate(kinds.items())
    ]  # fmt: skip
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": photo(folder), "imageData": None,
               "imageHeight": H, "imageWidth": W}  # fmt: skip
    return write(folder / "a.json", content).parent


def labelme_with_image(folder: Path) -> Path:
    path = labelme(folder) / "a.json"
    content = json.loads(path.read_text())
    content["imageData"] = base64.b64encode((folder / "a.png").read_bytes()).decode()
    (folder / "a.png").unlink()
    return write(path, content).parent


def voc(folder: Path) -> Path:
    boxes = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>3</xmin><ymin>2</ymin><xmax>12</xmax>"
        f"<ymax>9</ymax></bndbox></object>"
        for name in CLASSES
    )
    size = f"<size><width>{W}</width><height>{H}</height><depth>3</depth></size>"
    photo(folder / "JPEGImages", "a.jpg")
    write(folder / "Annotations" / "a.xml", f"<annotation><filename>a.jpg</filename>{size}{boxes}</annotation>")
    return folder


def voc_masks(folder: Path) -> Path:
    voc(folder)
    numbers = np.maximum(np.asarray(block(1)), np.asarray(block(2).rotate(180)))
    colors = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)
    for name, values in (("SegmentationObject", numbers), ("SegmentationClass", colors[numbers])):
        (folder / name).mkdir()
        Image.fromarray(values).save(folder / name / "a.png")
    write(folder / "labelmap.txt", "# label:color_rgb:parts:actions\ncat:128,0,0::\ndog:0,128,0::\n")
    return folder


def yolo(folder: Path) -> Path:
    shares = [value / (H if i % 2 else W) for i, value in enumerate(CORNERS)]
    bridged = [0.1, 0.1, 0.4, 0.1, 0.4, 0.4, 0.1, 0.4, 0.1, 0.1, 0.6, 0.6, 0.9, 0.6, 0.9, 0.9, 0.6, 0.6]
    rows = [(0, *shares), (1, 0.5, 0.5, 0.2, 0.3), (1, *bridged)]
    photo(folder / "images" / "train")
    write(folder / "labels" / "train" / "a.txt", "\n".join(" ".join(map(str, row)) for row in rows))
    write(folder / "data.yaml", "path: .\ntrain: images/train\nval: images/train\nnames:\n  0: cat\n  1: dog\n")
    return folder


def open_images(folder: Path) -> Path:
    photo(folder / "images", "0a.jpg")
    (folder / "masks").mkdir()
    rows = ["MaskPath,ImageID,LabelName,BoxID,BoxXMin"]
    for i, label in enumerate(("/m/01", "/m/02")):
        block().save(folder / "masks" / f"m{i}.png")
        rows.append(f"m{i}.png,0a,{label},b{i},0.5")
    write(folder / "class-descriptions-boxable.csv", "/m/01,cat\n/m/02,dog\n")
    write(folder / "train-annotations-object-segmentation.csv", "\n".join(rows))
    return folder


def nuclei(folder: Path) -> Path:
    photo(folder / "0a" / "images", "0a.png")
    (folder / "0a" / "masks").mkdir()
    for i in range(2):
        block().rotate(180 * i).save(folder / "0a" / "masks" / f"{i}.png")
    return folder


def penn_fudan(folder: Path) -> Path:
    photo(folder / "PNGImages")
    (folder / "PedMasks").mkdir()
    values = np.maximum(np.asarray(block(1)), 2 * (np.asarray(block(1).rotate(180))))
    Image.fromarray(values).save(folder / "PedMasks" / "a_mask.png")
    return folder


def m2nist(folder: Path) -> Path:
    labels = np.full((3, 64, 84), 10, np.uint8)
    labels[:, 3:20, 3:15] = 4
    labels[:, 30:45, 50:60] = labels[:, 30:45, 30:40] = 7
    np.save(folder / "combined.npy", (labels != 10).astype(np.uint8) * 200)
    np.save(folder / "segmented.npy", labels)
    boxes = "1,1,17,22,4\t48,28,62,47,7\t28,28,42,47,7"
    write(folder / "bbox.txt", "\n".join(f"{i}\t{boxes}" for i in range(3)))
    return folder


def m2nist_zip(folder: Path) -> Path:
    m2nist(folder)
    with zipfile.ZipFile(folder / "m2nist.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("combined.npy", "segmented.npy", "bbox.txt"):
            archive.write(folder / name, name)
            (folder / name).unlink()
    return folder / "m2nist.zip"


def cvat(folder: Path) -> Path:
    points = ";".join(f"{x},{y}" for x, y in zip(CORNERS[::2], CORNERS[1::2]))
    shapes = f"""<polygon label="cat" points="{points}" group_id="1" z_order="0"/>
        <box label="dog" xtl="1.0" ytl="2.0" xbr="30.0" ybr="20.0" rotation="45.0"/>
        <ellipse label="cat" cx="20.0" cy="20.0" rx="5.0" ry="7.0"/>
        <mask label="dog" rle="2, 3, 3, 4, 0, 4" left="10" top="20" width="4" height="4"/>"""
    image = f'<image id="0" name="{photo(folder / "images")}" width="{W}" height="{H}">{shapes}</image>'
    labels = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    return write(folder / "annotations.xml", f"<annotations><version>1.1</version>{meta}{image}</annotations>").parent


def label_studio(folder: Path) -> Path:
    mask = np.asarray(block()).ravel() > 0
    bits = f"{4 * mask.size:032b}" + "00111" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    edges = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), mask.size]
    for start, end in itertools.pairwise(edges):  # one run each: its length, 16 bits, and its value
        bits += f"111{4 * (end - start) - 1:016b}{255 * int(mask[start]):08b}"
    brush = np.packbits([int(bit) for bit in bits]).tolist()
    values = {
        "polygonlabels": {"points": [[10, 10], [50, 10.5], [50, 50]], "closed": True},
        "rectanglelabels": {"x": 5.0, "y": 6.0, "width": 30.0, "height": 40.0, "rotation": 12.0},
        "ellipselabels": {"x": 50.0, "y": 60.0, "radiusX": 20.0, "radiusY": 10.0, "rotation": 0},
        "brushlabels": {"format": "rle", "rle": brush},
    }
    regions = [
        {"id": str(i), "type": kind, "original_width": W, "original_height": H, "image_rotation": 0,
         "value": {**value, kind: [CLASSES[i % 2]]}}
        for i, (kind, value) in enumerate(values.items())
    ]  # fmt: skip
    task = {
        "id": 1,
        "data": {"image": f"/data/upload/1/0a1b2c3d-{photo(folder)}"},
        "annotations": [{"result": regions}],
    }
    return write(folder / "export.json", [task])


def rle_csv(folder: Path) -> Path:
    rows = [f"{photo(folder / 'train')},35 5 65 5,1", "a.png,500 20 600 20,2"]
    return write(folder / "train.csv", "\n".join(["ImageId,EncodedPixels,ClassId", *rows])).parent


def cityscapes(folder: Path) -> Path:
    photo(folder / "leftImg8bit/train/ulm", "ulm_000001_leftImg8bit.png")
    points = [[x, y] for x, y in zip(CORNERS[::2], CORNERS[1::2])]
    back = [[0, 0], [W, 0], [W, H], [0, H]]
    polygons = {"road": back, "car": points, "cargroup": [[x + 9, y + 9] for x, y in points], "person": points}
    objects = [{"label": label, "polygon": polygon} for label, polygon in polygons.items()]
    content = {"imgHeight": H, "imgWidth": W, "objects": objects}
    return write(folder / "gtFine/train/ulm/ulm_000001_gtFine_polygons.json", content).parents[3]


def supervisely(folder: Path) -> Path:
    photo(folder / "ds" / "img")
    png = io.BytesIO()
    block().crop((4, 3, 12, 9)).convert("1").save(png, "PNG")
    exterior, hole = [[3, 2], [20, 2], [20, 20], [3, 20]], [[6, 6], [9, 6], [9, 9]]
    objects = [
        {"classTitle": "cat", "geometryType": "polygon", "points": {"exterior": exterior, "interior": [hole]}},
        {"classTitle": "dog", "geometryType": "rectangle", "points": {"exterior": [[3, 2], [9, 8]], "interior": []}},
        {"classTitle": "dog", "geometryType": "bitmap",
         "bitmap": {"origin": [4, 3], "data": base64.b64encode(zlib.compress(png.getvalue())).decode()}},
    ]  # fmt: skip
    write(folder / "ds" / "ann" / "a.png.json", {"size": {"height": H, "width": W}, "objects": objects, "tags": []})
    write(folder / "meta.json", {"classes": [{"title": name, "shape": "any"} for name in CLASSES], "tags": []})
    return folder


def panoptic(folder: Path) -> Path:
    colors = np.zeros((H, W, 3), np.uint8)
    colors[3:9, 4:12], colors[12:20, 20:30], colors[25:] = (7, 0, 0), (0, 1, 0), (1, 1, 0)
    name = photo(folder / "val", "a.jpg")
    (folder / "panoptic_val").mkdir()
    Image.fromarray(colors).save(folder / "panoptic_val" / "a.png")
    segments = [{"id": i, "category_id": c, "iscrowd": int(c == 2)} for i, c in ((7, 1), (256, 2), (257, 3))]
    categories = [{"id": i, "name": name, "isthing": int(i < 3)} for i, name in enumerate((*CLASSES, "sky"), 1)]
    content = {
        "images": [{"id": 5, "file_name": name, "height": H, "width": W}],
        "annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": segments}],
        "categories": categories,
    }
    return write(folder / "panoptic_val.json", content)


def darknet(folder: Path) -> Path:
    name = photo(folder / "obj_train_data")
    write(folder / "obj_train_data" / "a.txt", "0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.5 0.1 0.5 0.6\n")
    write(folder / "train.txt", f"data/obj_train_data/{name}\n")
    write(folder / "obj.names", "cat\ndog\n")
    return write(folder / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")


FORMATS: dict[str, Callable[[Path], Path]] = {
    case.__name__: case
    for case in (
        coco, via, via_csv, labelme, labelme_with_image, voc, voc_masks, yolo, open_images, nuclei, penn_fudan,
        m2nist, m2nist_zip, cvat, label_studio, rle_csv, cityscapes, supervisely, panoptic, darknet,
    )
}  # fmt: skip


# ---- Weights ---------------------------------------------------------------------------------------------------------
ARRAYS = {"conv1": {"kernel": np.ones((3, 3, 2, 4), "f4"), "bias": np.arange(4, dtype="f4")},
          "mrcnn_mask": {"kernel": np.ones((1, 1, 4, 2), "f4"), "bias": np.zeros(2, "f4")}}  # fmt: skip


def matterport_h5(folder: Path) -> Path:
    with h5py.File(folder / "w.h5", "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in ARRAYS]
        file.attrs["mrcnn_class_names"] = json.dumps(["BG", *CLASSES])
        for layer, arrays in ARRAYS.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{name}:0".encode() for name in arrays]
            for name, array in arrays.items():
                group.create_dataset(f"{layer}/{name}:0", data=array, compression="gzip" if array.size > 8 else None)
    return folder / "w.h5"


def keras_h5(folder: Path) -> Path:
    with h5py.File(folder / "w.weights.h5", "w") as file:
        for layer, arrays in ARRAYS.items():
            variables = file.create_group(f"layers/{layer}/vars")
            variables.attrs["name"] = layer
            for i, array in enumerate(arrays.values()):
                variables.create_dataset(str(i), data=array)
    return folder / "w.weights.h5"


def keras_archive(folder: Path) -> Path:
    keras_h5(folder)
    config = {"class_name": "MaskRCNN", "config": {"class_names": ["BG", *CLASSES], "config": {"NAME": "x"}}}
    with zipfile.ZipFile(folder / "w.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.write(folder / "w.weights.h5", "model.weights.h5")
    (folder / "w.weights.h5").unlink()
    return folder / "w.keras"


def _copier(file: Path) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copy(file, folder))


# Files of PyTorch projects, which PyTorch wrote: zip archives, streams of pickles, safetensors, detectron2's pickles.
CONTAINERS = Path(__file__).resolve().parent.parent / "golden" / "torch" / "containers"
STATE_DICTS = {file.name: _copier(file) for file in sorted(CONTAINERS.iterdir()) if file.suffix != ".npz"}
WEIGHTS: dict[str, Callable[[Path], Path]] = {
    **{case.__name__: case for case in (matterport_h5, keras_h5, keras_archive)},
    **STATE_DICTS,
}
