"""One target: its box, its templates, and how an answer of the network changes them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from mixformerv2 import geometry
from mixformerv2.config import TrackerConfig
from mixformerv2.geometry import CropWindow
from mixformerv2.results import Result
from mixformerv2.runtime.backend import Backend

Crop = UInt8[np.ndarray, "side side 3"]
RgbFrame = UInt8[np.ndarray, "height width 3"]

# Of the first frame: how much larger the search window is (logarithm), where the target lies in it (in its sides).
_LOOKS = ((0.0, 0.0, 0.0), (0.2, 0.3, 0.0), (-0.2, -0.3, 0.0), (0.1, 0.0, 0.3), (-0.1, 0.0, -0.3))
_MIN_IOU_OF_LOOK = 0.3
_MAX_LOG_CORRECTION = 0.7
_TINY_PX = 1e-6
_NEAR_BORDER = 0.1  # of its sides: a box that is so near to the border may reach over it


class Sight(NamedTuple):
    """What one look at a frame shows of a target: the network's box in the frame, and its score."""

    box_frame: geometry.Box
    score: float

    @classmethod
    def through(cls, window: CropWindow, box_unit: geometry.Box, score: Any) -> Sight:
        """The network's answer about a window. Raises ValueError for one that is not finite."""
        sight = cls(window.to_frame(box_unit), float(score))
        if not np.isfinite([*sight.box_frame, sight.score]).all():
            raise ValueError("the network answered with numbers that are not finite: its weights are damaged")
        return sight


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


class Target:
    """What is known of one object, from the box that a person drew in ``rgb`` on.

    Of every frame ``next_look`` says where to look for it, and where next, until what the looks showed is enough and
    goes to ``follow``. ``update`` does so with ``look``, which asks the network; a tracker of many targets asks about
    all of them at once.
    ``cache`` is the backend's own of the templates as they are now.
    """

    def __init__(self, rgb: RgbFrame, box: Any, backend: Backend, config: TrackerConfig) -> None:
        self._backend, self._config = backend, config
        self._frame_size = (rgb.shape[1], rgb.shape[0])
        self.box_frame = _inside(box, self._frame_size)
        self._clear_sides = _sides(self.box_frame)  # when it last was clear of the border
        self._has_left = False  # lost at the border, and waited for there
        search_px = backend.config.model.search_px
        self._crop = np.empty((search_px, search_px, 3), np.uint8)  # every frame's search crop in turn
        self.memory = TemplateMemory(self._cut_template(rgb), config)
        self.size_factors: Float[np.ndarray, "2"] = np.ones(2)
        self._encode()

    @property
    def box(self) -> tuple[float, float, float, float]:
        """``(x, y, w, h)`` in pixels of the last frame."""
        x, y, w, h = (float(value) for value in geometry.xyxy_to_xywh(self.box_frame))
        return x, y, w, h

    def update(self, rgb: RgbFrame) -> Result:
        """Where it is in the next frame."""
        self.enter(rgb)
        sights: list[Sight] = []
        while (around_frame := self.next_look(sights)) is not None:
            sights.append(self.look(rgb, around_frame))
        return self.follow(rgb, sights)

    def enter(self, rgb: RgbFrame) -> None:
        """The next frame, which may be the same picture at another resolution."""
        size = (rgb.shape[1], rgb.shape[0])
        if size != self._frame_size:
            factors = np.divide(size, self._frame_size)
            self.box_frame = self.box_frame * np.tile(factors, 2)
            self._clear_sides = self._clear_sides * factors
            self._frame_size = size

    @property
    def sought_frame(self) -> geometry.Box:
        """What the target is looked for around: its last box.

        What was last seen of a target that left over the border is a sliver: it is looked for there as large as it was
        when it last was clear of the border.
        """
        if not self._has_left:
            return self.box_frame
        return geometry.rescale(self.box_frame, np.maximum(self._clear_sides / _sides(self.box_frame), 1.0))

    def window(self, around_frame: geometry.Box) -> CropWindow:
        """Where to look for the target around a box."""
        search_px = self._backend.config.model.search_px
        return CropWindow.around(
            around_frame, self._config.search_factor, search_px, self._config.published_mapping
        )

    def look(self, rgb: RgbFrame, around_frame: geometry.Box) -> Sight:
        """What the network sees in a search window around a box."""
        window = self.window(around_frame)
        located = self._backend.search(window.cut(rgb, out=self._crop)[None], self.cache)
        return Sight.through(window, located.box_unit[0], located.score[0])

    @property
    def _threshold(self) -> float:
        """The score from which on the target counts as found where it is sought."""
        return max(self._config.lost_threshold, self._config.found_threshold * self._has_left)

    def next_look(self, sights: Sequence[Sight]) -> geometry.Box | None:
        """The box to look around next, after these looks at the frame; None where they are enough.

        A target that is not found is looked for once more in a wider window, and what that shows is looked at as near
        as any target is: in the wide window it was too small for its score to tell it from others.
        """
        config = self._config
        if not sights:
            return self.sought_frame
        if sights[0].score >= self._threshold or config.widen_when_lost == 1:
            return None
        if len(sights) == 1:
            return geometry.rescale(self.sought_frame, np.full(2, config.widen_when_lost, float))
        if len(sights) == 2 and sights[1].score >= config.lost_threshold:
            return self._on_frame(sights[1].box_frame)
        return None

    def follow(self, rgb: RgbFrame, sights: Sequence[Sight]) -> Result:
        """Takes what the looks at the frame showed; encodes the templates again where they have changed."""
        config, threshold = self._config, self._threshold
        box_frame, score = sights[0]
        if len(sights) == 3 and sights[2].score >= max(threshold, config.found_threshold):
            box_frame, score = sights[2]
        lost = score < threshold
        held = lost and config.hold_when_lost
        if not held:
            box_frame = self._at_its_size(geometry.rescale(box_frame, self.size_factors))
            self.box_frame = self._on_frame(box_frame)
        clear = geometry.is_clear(self.box_frame, self._frame_size, _NEAR_BORDER)
        self._has_left = held and not clear and config.found_threshold > 0
        if clear:
            self._clear_sides = _sides(self.box_frame)
        # The score of a box that was not taken says nothing of the one that was held.
        if self.memory.wants(score) and not held:
            self.memory.propose(self._cut_template(rgb), score)
        if self.memory.refresh():
            self._encode()
        return Result(self.box, score, "lost" if lost else "tracking")

    def _on_frame(self, box_frame: geometry.Box) -> geometry.Box:
        """The box kept on the frame, and no narrower than it may be."""
        return geometry.clip(box_frame, self._frame_size, min(self._config.min_side_px, *self._frame_size))

    def _at_its_size(self, box_frame: geometry.Box) -> geometry.Box:
        """The box with a part of its change of size since the last frame taken back: a network misjudges sizes
        frame by frame, and each error would show in the next search window.

        Sizes are those of what is on the frame: the last box ended at its border. Sides are found one by one: where
        the right one lies to the left of the left one, their middle counts.
        """
        if not self._config.size_inertia:
            return box_frame
        middle, half = (box_frame[:2] + box_frame[2:]) / 2, _sides(box_frame) / 2
        half = np.maximum(half, _TINY_PX)
        visible = geometry.clip(np.concatenate([middle - half, middle + half]), self._frame_size, _TINY_PX)
        last, now = _sides(self.box_frame), _sides(visible)
        return geometry.rescale(visible, (last / now) ** self._config.size_inertia)

    def calibrate_size(self, rgb: RgbFrame) -> None:
        """Factors for the width and height of later boxes: a network sees some targets too wide, always.

        Looks at the first frame as it will at later ones, the target elsewhere in the window and of another size, and
        takes the median of the looks that find it.
        """
        if not self._config.size_calibration:
            return
        true_frame, errors = self.box_frame, []
        sides = _sides(true_frame)
        for log_scale, x, y in _LOOKS:
            moved_frame = true_frame + np.tile(sides * (x, y), 2)
            box_frame = self.look(rgb, geometry.rescale(moved_frame, np.full(2, np.exp(log_scale)))).box_frame
            if geometry.iou(box_frame, true_frame) >= _MIN_IOU_OF_LOOK:
                errors.append(np.log(sides / _sides(box_frame)))
        error = np.median(errors, axis=0) if errors else np.zeros(2)
        correction = np.clip(error, -_MAX_LOG_CORRECTION, _MAX_LOG_CORRECTION)
        self.size_factors = np.exp(self._config.size_calibration * correction)

    def _cut_template(self, rgb: RgbFrame) -> Crop:
        config, template_px = self._config, self._backend.config.model.template_px
        window = CropWindow.around(
            self.box_frame, config.template_factor, template_px, config.published_mapping
        )
        crop, brightness = window.cut(rgb), self._backend.config.model.template_surround
        if brightness == 1:
            return crop
        return geometry.dim_around(crop, window.to_unit(self.box_frame), brightness)

    def _encode(self) -> None:
        online = np.stack(self.memory.online)
        self.cache = self._backend.encode_templates(self.memory.template[None], online[None])


def _sides(box_frame: geometry.Box) -> Float[np.ndarray, "2"]:
    return box_frame[2:] - box_frame[:2]


def _inside(box: Any, frame_size: tuple[int, int]) -> geometry.Box:
    """A person's ``x, y, w, h`` as a box on the frame; one that reaches over the border is clipped, with a warning."""
    width, height = frame_size
    box_frame = geometry.check_on_frame(box, frame_size)
    if box_frame.min() >= 0 and box_frame.max() <= 1 < min(frame_size):
        raise ValueError(
            f"the box {geometry.as_text(box_frame)} lies within one pixel: it must be in pixels of the frame of "
            f"{width} x {height} px, not in fractions of it"
        )
    inside = np.clip(box_frame, 0, np.tile([width, height], 2))
    if not np.array_equal(inside, box_frame):
        warnings.warn(
            f"the box {geometry.as_text(box_frame)} reaches over the border of the frame of {width} x {height} px: "
            f"clipped to {geometry.as_text(inside)}",
            stacklevel=_frames_of_ours() + 1,
        )
    return inside


def _frames_of_ours() -> int:
    """How many calls lie between the caller of this function, counted too, and code outside this package."""
    frame: FrameType | None = sys._getframe(1)
    count = 0
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == __package__:
        frame, count = frame.f_back, count + 1
    return count
