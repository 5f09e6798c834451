"""OpenCV's trackers behind the two calls that everything here is measured by: RGB in, float boxes and a score out."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mixformerv2 import geometry
from mixformerv2.images import quiet_opencv
from mixformerv2.results import Result

CONTRIB = "opencv-contrib-python-headless"


@dataclass(frozen=True)
class Peer:
    """One of OpenCV's trackers: its class, and the model files that it needs."""

    kind: str
    """its class below ``cv2``"""
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """option, and the names under which that file was published"""
    fields: Mapping[str, str] = field(default_factory=dict)
    """option, and the field of OpenCV's ``Params`` where that is called otherwise"""
    package: str = "opencv-python-headless>=4.9"
    """where a tracker that is missing comes from"""


PEERS: dict[str, Peer] = {
    "nano": Peer(
        "TrackerNano",
        {
            "backbone": ("nanotrack_v2_backbone.onnx", "nanotrack_backbone_sim.onnx"),
            "head": ("nanotrack_v2_head.onnx", "nanotrack_head_sim.onnx"),
        },
        {"head": "neckhead"},
    ),
    "vit": Peer("TrackerVit", {"net": ("object_tracking_vittrack_2023sep.onnx", "vitTracker.onnx")}),
    "mil": Peer("TrackerMIL"),
    "dasiamrpn": Peer(
        "TrackerDaSiamRPN",
        {
            "model": ("object_tracking_dasiamrpn_model_2021nov.onnx", "dasiamrpn_model.onnx"),
            "kernel_cls1": (
                "object_tracking_dasiamrpn_kernel_cls1_2021nov.onnx",
                "dasiamrpn_kernel_cls1.onnx",
            ),
            "kernel_r1": ("object_tracking_dasiamrpn_kernel_r1_2021nov.onnx", "dasiamrpn_kernel_r1.onnx"),
        },
    ),
    "csrt": Peer("TrackerCSRT", package=f"{CONTRIB}<5"),
    "kcf": Peer("TrackerKCF", package=f"{CONTRIB}<5"),
}


def options_of_folder(tracker: str, folder: Path | None) -> dict[str, str]:
    """The option that names the folder of model files, where the tracker, as ``opencv:nano``, needs such."""
    peer = PEERS.get(tracker.removeprefix("opencv:")) if tracker.startswith("opencv:") else None
    return {"peers": str(folder.resolve())} if folder is not None and peer and peer.files else {}


class OpenCVTracker:
    """OpenCV's trackers want BGR and whole pixels; where one finds nothing, its last box stands.

    The score is OpenCV's own, nan for the trackers that have none. Raises ValueError where OpenCV refuses a frame.
    """

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self._name = name
        self._make = make
        self._tracker: Any = None

    def init(self, frame: Any, box: Any) -> None:
        geometry.check_box_xywh(box)
        x, y, w, h = (round(float(value)) for value in box)
        self._box = tuple(float(value) for value in box)
        _seed()
        self._tracker = self._make()
        self._call("init", frame, (x, y, max(w, 1), max(h, 1)))

    def update(self, frame: Any) -> Result:
        if self._tracker is None:
            raise ValueError("the tracker has no object yet: call init(frame, box) before update(frame)")
        found, box = self._call("update", frame)
        if found:
            self._box = tuple(float(value) for value in box)
        x, y, w, h = self._box
        return Result((x, y, w, h), self._score(), "tracking" if found else "lost")

    def _call(self, method: str, frame: Any, *arguments: Any) -> Any:
        bgr = np.ascontiguousarray(frame[..., ::-1])
        try:
            return getattr(self._tracker, method)(bgr, *arguments)
        except cv2.error as error:
            height, width = bgr.shape[:2]
            at = arguments[0] if arguments else self._box
            raise ValueError(
                f"opencv:{self._name} cannot {method} on a frame of {width} x {height} px with the box "
                f"{','.join(f'{value:g}' for value in at)}: {_reason(error)}"
            ) from error

    def _score(self) -> float:
        if not hasattr(self._tracker, "getTrackingScore"):
            return np.nan
        score = float(self._tracker.getTrackingScore())
        return score if score >= 0 else np.nan  # -1 is OpenCV's word for none


def model_files(name: str, options: Mapping[str, Any]) -> dict[str, Path]:
    """The model file for each of a peer's file options: given by that option, or found in the folder ``peers``.

    Raises ValueError where neither is given, FileNotFoundError where the file is not there.
    """
    files: dict[str, Path] = {}
    for option, published in PEERS[name].files.items():
        if options.get(option) is not None:
            files[option] = Path(options[option])
            if not files[option].is_file():
                raise FileNotFoundError(f"opencv:{name} needs a model file for {option}, got {files[option]}")
        elif options.get("peers") is not None:
            folder = Path(options["peers"])
            there = [folder / file for file in published if (folder / file).is_file()]
            if not there:
                raise FileNotFoundError(
                    f"opencv:{name} needs {' or '.join(published)} as its {option}, and {folder} holds none of them"
                )
            files[option] = there[0]
        else:
            needed = ", ".join(f"{key}=FILE" for key in PEERS[name].files)
            raise ValueError(
                f"opencv:{name} needs model files: give {needed}, or peers=FOLDER with {published[0]} and the like"
            )
    return files


def class_of_peer(name: str) -> Any:
    """OpenCV's own class. Raises ModuleNotFoundError where the installed OpenCV lacks it."""
    kind: Any = getattr(cv2, PEERS[name].kind, None)
    if kind is None:
        raise ModuleNotFoundError(
            f"opencv:{name} is not in the installed OpenCV {cv2.__version__}: "
            f"pip install '{PEERS[name].package}' (in an environment of its own where another OpenCV is installed)"
        )
    return kind


def open_peer(name: str, options: Mapping[str, Any]) -> OpenCVTracker:
    """The tracker that OpenCV calls so, its models loaded once as a check; ``threads`` goes for all of OpenCV.

    Raises ModuleNotFoundError where the installed OpenCV lacks it, ValueError or FileNotFoundError for model files
    that are missing or damaged.
    """
    kind = class_of_peer(name)
    files = model_files(name, options)

    def make() -> Any:
        if not files:
            return kind.create()
        parameters = kind.Params()
        for option, path in files.items():
            setattr(parameters, PEERS[name].fields.get(option, option), str(path))
        # OpenCV 5 warns of a default of its own, each time it makes a tracker with a network.
        with quiet_opencv(cv2.utils.logging.LOG_LEVEL_ERROR):
            return kind.create(parameters)

    if options.get("threads") is not None:
        cv2.setNumThreads(options["threads"])
    try:
        make()
    except cv2.error as error:
        given = ", ".join(str(path) for path in files.values())
        raise ValueError(f"opencv:{name} cannot be made from {given}: {_reason(error)}") from error
    return OpenCVTracker(name, make)


def _seed() -> None:
    """MIL draws from C's rand(), others may from OpenCV: what was tracked before must not change what comes out."""
    cv2.setRNGSeed(0)
    if os.name == "posix":  # elsewhere every library has a rand() of its own
        ctypes.CDLL(None).srand(1)


def _reason(error: cv2.error) -> str:
    return " ".join(str(getattr(error, "err", None) or error).split())
