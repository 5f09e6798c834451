"""The online tracker: cut a crop around the last box, ask the network, map back, keep the templates fresh."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mixformerv2 import geometry
from mixformerv2.config import TrackerConfig
from mixformerv2.geometry import CropWindow
from mixformerv2.results import Result
from mixformerv2.runtime.backend import Backend, open_backend
from mixformerv2.video import FrameSource, as_rgb_uint8, open_source

Crop = UInt8[np.ndarray, "side side 3"]

# Of the first frame: how much larger the search window is (logarithm), where the target lies in it (in its sides).
_LOOKS = ((0.0, 0.0, 0.0), (0.2, 0.3, 0.0), (-0.2, -0.3, 0.0), (0.1, 0.0, 0.3), (-0.1, 0.0, -0.3))
_MIN_IOU_OF_LOOK = 0.3
_MAX_LOG_CORRECTION = 0.7
_NOT_STARTED = "the tracker has no object yet: call init(frame, box) before update(frame)"


def _as_text(box_frame: geometry.Box) -> str:
    return ",".join(f"{value:g}" for value in geometry.xyxy_to_xywh(box_frame))


class TemplateMemory:
    """The fixed template, the online templates, and the best crop of the current interval (paper, section 3.3)."""

    def __init__(self, template: Crop, config: TrackerConfig) -> None:
        self._config = config
        self.template = template
        self.online = [template]
        self._oldest = 0
        self._frames = 0
        self._forget_candidate()

    def _forget_candidate(self) -> None:
        self._candidate, self._best_score = self.template, -1.0

    def wants(self, score: float) -> bool:
        """Counts a frame; is its crop the best of the interval so far, and good enough?"""
        self._frames += 1
        self._best_score *= self._config.score_decay
        return score > self._config.update_threshold and score > self._best_score

    def propose(self, crop: Crop, score: float) -> None:
        """The crop that ``wants`` asked for."""
        self._candidate, self._best_score = crop, score

    def refresh(self) -> bool:
        """At the end of an interval, makes the best crop an online template; did the templates change?

        An interval without a good crop brings back the fixed template, as in the released code.
        """
        if self._frames % self._config.update_interval:
            return False
        if len(self.online) < self._config.online_templates:
            self.online.append(self._candidate)
            changed = True
        else:
            changed = self.online[self._oldest] is not self._candidate
            self.online[self._oldest] = self._candidate
            self._oldest = (self._oldest + 1) % self._config.online_templates
        self._forget_candidate()
        return changed


class Tracker:
    """Follows one object through a video.

    ``model`` is a shipped name, a folder made by ``mixformerv2 export`` or a ``.safetensors`` checkpoint. ``backend``
    is ``auto``, ``openvino``, ``onnxruntime`` or ``torch``, or a backend that another tracker has loaded
    (``tracker.backend``), which costs nothing to share. ``precision`` is ``auto``, ``f32`` or ``bf16``. ``channels``
    is ``rgb``, or ``bgr`` for frames from OpenCV. ``config`` replaces the online rules that the model came with.

    ``init`` may be called again for the next video or another object.
    Raises ValueError or an OSError with one sentence where the model or an option is wrong.
    """

    def __init__(
        self,
        model: str | Path = "tiny",
        backend: str | Backend = "auto",
        precision: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        channels: str = "rgb",
        config: TrackerConfig | None = None,
    ) -> None:
        if isinstance(backend, str):
            backend = open_backend(model, backend, precision, device, threads)
        self.backend = backend
        self.config = config or backend.config.tracker
        self._channels = channels
        self._memory: TemplateMemory | None = None

    def init(self, frame: Any, box: Any) -> None:
        """Starts on the object in ``box``, ``(x, y, w, h)`` in pixels of ``frame``.

        ``frame`` is (H, W, 3) uint8; grey, RGBA, 16-bit and [0, 1] float frames are converted. A box that reaches over
        the border is clipped, with a warning. Raises ValueError for a box without size or wholly outside, and for any
        other kind of frame.
        """
        rgb = as_rgb_uint8(frame, self._channels)
        height, width = rgb.shape[:2]
        box_frame = geometry.check_box_xywh(box)
        inside = np.clip(box_frame, 0, np.tile([width, height], 2))
        if not geometry.area(inside) > 0:
            raise ValueError(
                f"the box {_as_text(box_frame)} lies outside the frame of {width} x {height} px: it must overlap it"
            )
        if not np.array_equal(inside, box_frame):
            warnings.warn(
                f"the box {_as_text(box_frame)} reaches over the border of the frame of {width} x {height} px: "
                f"clipped to {_as_text(inside)}",
                stacklevel=2,
            )
        self._box_frame = inside
        self._frame_size = (width, height)
        self._memory = TemplateMemory(self._cut_template(rgb), self.config)
        self._encode()
        self._size_factors = np.ones(2)
        if self.config.size_calibration:
            self._size_factors = self._calibrate_size(rgb)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The current box, ``(x, y, w, h)`` in pixels of the last frame."""
        if self._memory is None:
            raise ValueError(_NOT_STARTED)
        x, y, w, h = (float(value) for value in geometry.xyxy_to_xywh(self._box_frame))
        return x, y, w, h

    def update(self, frame: Any) -> Result:
        """Where the object is in the next frame.

        The box is ``(x, y, w, h)`` in float pixels, never wholly outside the frame; the score in [0, 1] says how sure
        the network is; the state is ``tracking`` or ``lost``. A frame of another size is taken for the same picture
        at another resolution. Raises ValueError before ``init`` and for a frame of a wrong kind.
        """
        if self._memory is None:
            raise ValueError(_NOT_STARTED)
        rgb = as_rgb_uint8(frame, self._channels)
        self._follow_size(rgb.shape[1], rgb.shape[0])
        box_frame, score = self._look(rgb, self._box_frame)
        box_frame = geometry.rescale(box_frame, self._size_factors)
        self._box_frame = geometry.clip(box_frame, self._frame_size, self._min_side())
        if self._memory.wants(score):
            self._memory.propose(self._cut_template(rgb), score)
        if self._memory.refresh():
            self._encode()
        return Result(self.box, score, "tracking" if score >= self.config.lost_threshold else "lost")

    def _look(
        self, rgb: UInt8[np.ndarray, "height width 3"], around_frame: geometry.Box
    ) -> tuple[geometry.Box, float]:
        """The network's box in the frame and its score, in a search window around a box."""
        config, search_px = self.config, self.backend.config.model.search_px
        window = CropWindow.around(around_frame, config.search_factor, search_px, config.published_mapping)
        located = self.backend.search(window.cut(rgb)[None], self._cache)
        score = float(located.score[0])
        if not np.isfinite([*located.box_unit[0], score]).all():
            raise ValueError("the network answered with numbers that are not finite: its weights are damaged")
        return window.to_frame(located.box_unit[0]), score

    def _calibrate_size(self, rgb: UInt8[np.ndarray, "height width 3"]) -> Float[np.ndarray, "2"]:
        """Factors for the width and height of later boxes: a network sees some targets too wide, always.

        Looks at the first frame as it will at later ones, the target elsewhere in the window and of another size, and
        takes the median of the looks that find it.
        """
        true_frame, errors = self._box_frame, []
        sides = true_frame[2:] - true_frame[:2]
        for log_scale, x, y in _LOOKS:
            moved_frame = true_frame + np.tile(sides * (x, y), 2)
            box_frame, _ = self._look(rgb, geometry.rescale(moved_frame, np.full(2, np.exp(log_scale))))
            if geometry.iou(box_frame, true_frame) >= _MIN_IOU_OF_LOOK:
                errors.append(np.log(sides / (box_frame[2:] - box_frame[:2])))
        error = np.median(errors, axis=0) if errors else np.zeros(2)
        return np.exp(
            self.config.size_calibration * np.clip(error, -_MAX_LOG_CORRECTION, _MAX_LOG_CORRECTION)
        )

    def _min_side(self) -> float:
        return min(self.config.min_side_px, *self._frame_size)

    def _cut_template(self, rgb: UInt8[np.ndarray, "height width 3"]) -> Crop:
        config, template_px = self.config, self.backend.config.model.template_px
        window = CropWindow.around(
            self._box_frame, config.template_factor, template_px, config.published_mapping
        )
        return window.cut(rgb)

    def _encode(self) -> None:
        assert self._memory is not None
        online = np.stack(self._memory.online)
        self._cache = self.backend.encode_templates(self._memory.template[None], online[None])

    def _follow_size(self, width: int, height: int) -> None:
        if (width, height) != self._frame_size:
            self._box_frame = self._box_frame * np.tile(np.divide((width, height), self._frame_size), 2)
            self._frame_size = (width, height)


def track(
    source: str | Path | int | FrameSource,
    box: Any,
    start_frame: int = 0,
    tracker: Tracker | None = None,
) -> Iterator[tuple[UInt8[np.ndarray, "height width 3"], Result]]:
    """Follows the object in ``box`` from ``start_frame`` on; yields every frame (RGB) with its result.

    ``source`` is a video file, a folder or glob of images, a camera number or a URL; or frames that are open, which
    begin where they stand. The first result is the given box itself with score 1. Without a ``tracker`` the shipped
    ``tiny`` is loaded. Raises ValueError or an OSError with one sentence for a source or box that is wrong, when the
    first frame is asked for; a stream that ends early warns.
    """
    tracker = tracker or Tracker()
    frames = source if isinstance(source, FrameSource) else open_source(source, start_frame)
    with frames:
        for index, frame in enumerate(frames):
            if index == 0:
                tracker.init(frame, box)
                yield frame, Result(tracker.box, 1.0, "tracking")
            else:
                yield frame, tracker.update(frame)
        if frames.warning:
            warnings.warn(frames.warning, stacklevel=2)
