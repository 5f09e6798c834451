"""The published dataset layouts by name: who reads each, and how its folder is recognised.

A new dataset is one function in `readers` that finds its frames and annotation, and its lines in the two tables here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mixformerv2.data.readers.annotation import FIRST_PIXEL
from mixformerv2.data.readers.coco import looks_like_coco, read_coco
from mixformerv2.data.readers.davis import looks_like_davis, read_davis, read_davis_to_learn
from mixformerv2.data.readers.got10k import (
    looks_like_got10k,
    looks_like_trackingnet,
    read_got10k,
    read_trackingnet,
)
from mixformerv2.data.readers.lasot import (
    looks_like_lasot,
    looks_like_lasot_ext,
    looks_like_tnl2k,
    looks_like_vasttrack,
    read_lasot,
    read_lasot_ext,
    read_tnl2k,
    read_vasttrack,
)
from mixformerv2.data.readers.nfs import looks_like_nfs, read_nfs
from mixformerv2.data.readers.otb import looks_like_otb, looks_like_uav123, read_otb, read_uav123
from mixformerv2.data.readers.vot import looks_like_vot, read_vot
from mixformerv2.data.sequence import Sequences

__all__ = ["FIRST_PIXEL", "LAYOUTS", "READERS", "Layout", "Reader", "read_otb"]

Reader = Callable[[Path], Sequences]

READERS: dict[str, Reader] = {
    "otb": read_otb,
    "got10k-train": partial(read_got10k, split="train"),
    "got10k-val": partial(read_got10k, split="val"),
    "got10k-test": partial(read_got10k, split="test"),
    "got10k-train-vot": partial(read_got10k, split="train-vot"),
    "got10k-val-vot": partial(read_got10k, split="val-vot"),
    "lasot": read_lasot,
    "lasot-train": partial(read_lasot, split="train"),
    "lasot-test": partial(read_lasot, split="test"),
    "lasot-ext": read_lasot_ext,
    "trackingnet-train": partial(read_trackingnet, split="train"),
    "trackingnet-test": partial(read_trackingnet, split="test"),
    "coco": read_coco,
    "coco-val": partial(read_coco, split="val"),
    "tnl2k": read_tnl2k,
    "tnl2k-train": partial(read_tnl2k, split="train"),
    "tnl2k-test": partial(read_tnl2k, split="test"),
    "uav123": read_uav123,
    "nfs30": partial(read_nfs, fps=30),
    "nfs240": partial(read_nfs, fps=240),
    "vot": read_vot,
    "vasttrack": read_vasttrack,
    "vasttrack-train": partial(read_vasttrack, split="train"),
    "vasttrack-test": partial(read_vasttrack, split="test"),
    "davis": read_davis,
    "davis-2016-train": partial(read_davis, year="2016", split="train"),
    "davis-2016-val": partial(read_davis, year="2016", split="val"),
    "davis-2017-train": partial(read_davis, year="2017", split="train"),
    "davis-2017-val": partial(read_davis, year="2017", split="val"),
}
"""Dataset name -> the function that reads it from its root folder, in the layout as published.

A reader opens the list or looks at the names of folders; boxes and frames are opened when a sequence is asked for.
Pixels are counted as in `FIRST_PIXEL`.
"""


@dataclass(frozen=True)
class Layout:
    """How the files of one dataset lie in a folder."""

    kind: str
    """its key in `LAYOUTS`"""
    reader: Reader
    """what training reads from such a folder"""
    recognise: Callable[[Path], bool]
    """whether a folder looks like it, from a few file names"""
    what: str
    """the files that are expected, in one line"""
    parts: tuple[str, ...]
    """names in `READERS` that together read all of such a folder, none of it twice"""
    only_for_tests: bool = False
    """whether it is a benchmark without a training part: who trains on it cannot be measured on it"""


LAYOUTS: dict[str, Layout] = {
    layout.kind: layout
    for layout in (
        Layout(
            "coco",
            READERS["coco"],
            looks_like_coco,
            "annotations.json and images/, or annotations/instances_train2017.json and train2017/",
            ("coco", "coco-val"),
        ),
        Layout(
            "davis",
            read_davis_to_learn,
            looks_like_davis,
            "JPEGImages/480p/bear/00000.jpg and Annotations/480p/bear/00000.png",
            ("davis",),
        ),
        Layout(
            "got10k",
            READERS["got10k-train"],
            looks_like_got10k,
            "train/list.txt and train/GOT-10k_Train_000001/ with frames, groundtruth.txt and labels",
            ("got10k-train", "got10k-val", "got10k-test"),
        ),
        Layout(
            "lasot-ext",
            READERS["lasot-ext"],
            looks_like_lasot_ext,
            "atv/atv-1/img/00000001.jpg and atv/atv-1/groundtruth.txt",
            ("lasot-ext",),
            only_for_tests=True,
        ),
        Layout(
            "lasot",
            READERS["lasot-train"],
            looks_like_lasot,
            "airplane/airplane-1/img/00000001.jpg and airplane/airplane-1/groundtruth.txt",
            ("lasot",),
        ),
        Layout(
            "vasttrack",
            READERS["vasttrack-train"],
            looks_like_vasttrack,
            "Actor/Actor-3/imgs/00001.jpg and Actor/Actor-3/Groundtruth.txt",
            ("vasttrack",),
        ),
        Layout(
            "tnl2k",
            READERS["tnl2k-train"],
            looks_like_tnl2k,
            "NAME/imgs/ with images and NAME/groundtruth.txt",
            ("tnl2k",),
        ),
        Layout(
            "trackingnet",
            READERS["trackingnet-train"],
            looks_like_trackingnet,
            "TRAIN_0/anno/NAME.txt and TRAIN_0/frames/NAME/0.jpg",
            ("trackingnet-train", "trackingnet-test"),
        ),
        Layout(
            "uav123",
            READERS["uav123"],
            looks_like_uav123,
            "data_seq/UAV123/bike1/000001.jpg and anno/UAV123/bike1.txt",
            ("uav123",),
            only_for_tests=True,
        ),
        Layout(
            "nfs30",
            READERS["nfs30"],
            partial(looks_like_nfs, fps=30),
            "car/30/car/00001.jpg and car/30/car.txt",
            ("nfs30", "nfs240"),
            only_for_tests=True,
        ),
        Layout(
            "nfs240",
            READERS["nfs240"],
            partial(looks_like_nfs, fps=240),
            "car/240/car/00001.jpg and car/240/car.txt",
            ("nfs240",),
            only_for_tests=True,
        ),
        Layout(
            "vot",
            READERS["vot"],
            looks_like_vot,
            "list.txt, bag/color/00000001.jpg and bag/groundtruth.txt",
            ("vot",),
            only_for_tests=True,
        ),
        Layout(
            "otb",
            READERS["otb"],
            looks_like_otb,
            "Car4/img/0001.jpg and Car4/groundtruth_rect.txt",
            ("otb",),
            only_for_tests=True,
        ),
    )
}
"""Layout kind -> how to recognise and read it. Each folder is of one kind at most."""
