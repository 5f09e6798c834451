"""The online tracker on one page, for products that ship a runtime, NumPy and OpenCV, and nothing else.

A runtime brings two functions, encode(template, online) -> cache and search(crop, cache) -> (box, score), and calls
main(): see the three files beside this one. The rules come from the exported folder's config.json.
"""

import json
import math
import sys
from pathlib import Path

import cv2
import numpy as np

# Of the first frame: how much larger the search window is (logarithm), where the target lies in it (in its sides).
LOOKS = ((0.0, 0.0, 0.0), (0.2, 0.3, 0.0), (-0.2, -0.3, 0.0), (0.1, 0.0, 0.3), (-0.1, 0.0, -0.3))


class Tracker:
    def __init__(self, folder, encode, search):
        config = json.loads((Path(folder) / "config.json").read_text())
        self.model, self.rules = config["model"], config["tracker"]
        self.encode, self.search = encode, search
        if self.rules["online_templates"] != 1:
            raise ValueError("this example knows one online template")

    def init(self, frame, box):
        """Start on the box (x, y, w, h) in an RGB frame."""
        x, y, w, h = box
        height, width = frame.shape[:2]
        self.box = np.clip([x, y, x + w, y + h], 0, [width, height, width, height])  # corners, from here on
        self.clear_sides, self.has_left = self.box[2:] - self.box[:2], False
        self.template = self.online = self.candidate = self.cut_template(frame)
        self.num_frames, self.best_score = 0, -1.0
        self.cache = self.encode(self.template[None], self.online[None, None])
        self.size_factors = np.exp(self.rules["size_calibration"] * self.misjudged(frame))

    def misjudged(self, frame):
        """The logarithms by which the network sees the first box too narrow and too low, the median of some looks."""
        true, errors = self.box, []
        sides = true[2:] - true[:2]
        for log_scale, x, y in LOOKS if self.rules["size_calibration"] else ():
            middle, half = (true[:2] + true[2:]) / 2 + sides * (x, y), sides * math.exp(log_scale) / 2
            box, _ = self.look(frame, np.concatenate([middle - half, middle + half]))
            seen = box[2:] - box[:2]
            common = np.maximum(np.minimum(true[2:], box[2:]) - np.maximum(true[:2], box[:2]), 0).prod()
            if (seen > 0).all() and common / (sides.prod() + seen.prod() - common) >= 0.3:
                errors.append(np.log(sides / seen))
        return np.clip(np.median(errors, axis=0), -0.7, 0.7) if errors else np.zeros(2)

    def look(self, frame, around):
        """The network's box in the frame, in a window around a box, and its score."""
        crop, origin, side = self.cut(frame, around, self.rules["search_factor"], self.model["search_px"])
        box_unit, score = (np.asarray(output)[0] for output in self.search(crop[None], self.cache))
        return box_unit.astype(float) * side + np.tile(origin, 2), float(score)

    def update(self, frame):
        """The box (x, y, w, h) in the next frame, and the network's score."""
        box, score = self.look(frame, self.sought())
        threshold = max(self.rules["lost_threshold"], self.has_left * self.rules["found_threshold"])
        if score < threshold and self.rules["widen_when_lost"] > 1:
            wide_box, wide_score = self.look(frame, self.widened())
            if wide_score >= self.rules["lost_threshold"]:
                middle, sides = (wide_box[:2] + wide_box[2:]) / 2, wide_box[2:] - wide_box[:2]
                nearer = self.inside(frame, middle, sides, self.rules["min_side_px"])
                near_box, near_score = self.look(frame, nearer)
                if near_score >= max(threshold, self.rules["found_threshold"]):
                    box, score = near_box, near_score
        held = score < threshold and self.rules["hold_when_lost"]
        if not held:
            self.move(box, frame)
        sides = self.box[2:] - self.box[:2]
        clear = min(*self.box[:2] - 0.1 * sides, *frame.shape[1::-1] - self.box[2:] - 0.1 * sides) >= 0
        self.has_left = held and not clear and self.rules["found_threshold"] > 0
        self.clear_sides = sides if clear else self.clear_sides
        self.refresh_template(frame, 0.0 if held else score)
        return (*self.box[:2], *(self.box[2:] - self.box[:2])), score

    def sought(self):
        """The last box; of a target that was lost at the border, as large as it was when it last was clear of it."""
        missing = np.maximum(self.clear_sides - (self.box[2:] - self.box[:2]), 0) * self.has_left
        return self.box + np.concatenate([-missing, missing]) / 2

    def widened(self):
        """What is sought, larger, so that the window around it is."""
        box = self.sought()
        middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * self.rules["widen_when_lost"]
        return np.concatenate([middle - half, middle + half])

    def move(self, box, frame):
        """To a box in the frame, its size corrected, and a part of its change of size taken back."""
        middle, sides = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * self.size_factors
        if self.rules["size_inertia"]:
            visible = self.inside(frame, middle, np.maximum(sides, 1e-6), 1e-6)
            middle, last, now = (visible[:2] + visible[2:]) / 2, *(b[2:] - b[:2] for b in (self.box, visible))
            sides = now * (last / now) ** self.rules["size_inertia"]
        self.box = self.inside(frame, middle, sides, self.rules["min_side_px"])

    def inside(self, frame, middle, sides, min_side):
        """The corners of a box, moved onto the frame, and no smaller than it may be."""
        low, high = middle - sides / 2, middle + sides / 2
        size = np.array([frame.shape[1], frame.shape[0]], float)
        min_side = min(min_side, *size)
        low, high = (
            np.minimum(np.maximum(low, 0), size - min_side),
            np.minimum(np.maximum(high, min_side), size),
        )
        return np.concatenate([low, np.maximum(high, low + min_side)])

    def refresh_template(self, frame, score):
        """At the end of every interval, the crop that scored best in it becomes the online template."""
        self.num_frames += 1
        self.best_score *= self.rules["score_decay"]
        if score > max(self.rules["update_threshold"], self.best_score):
            self.candidate, self.best_score = self.cut_template(frame), score
        if self.num_frames % self.rules["update_interval"] == 0:
            if self.candidate is not self.online:
                self.online = self.candidate
                self.cache = self.encode(self.template[None], self.online[None, None])
            self.candidate, self.best_score = self.template, -1.0

    def cut_template(self, frame):
        """A square around the box, and the box brighter than what surrounds it, where the network wants that."""
        crop, origin, side = self.cut(
            frame, self.box, self.rules["template_factor"], self.model["template_px"]
        )
        middles = (np.arange(len(crop)) + 0.5) / len(crop)
        left, top, right, bottom = np.searchsorted(middles, (self.box - np.tile(origin, 2)) / side)
        marked = np.rint(crop * np.float32(self.model["template_surround"])).astype(np.uint8)
        marked[top:bottom, left:right] = crop[top:bottom, left:right]
        return marked

    def cut(self, frame, around, factor, out_px):
        """A square around a box, resized, black where it leaves the frame; its corner and side in the frame."""
        x1, y1, x2, y2 = around
        side = max(math.ceil(math.sqrt((x2 - x1) * (y2 - y1)) * factor - 1e-9), 1)
        exact = np.array([x1 + 0.5 * (x2 - x1) - 0.5 * side, y1 + 0.5 * (y2 - y1) - 0.5 * side])
        published = self.rules[
            "published_mapping"
        ]  # the released code's small inexactness, which it trained with
        left, top = np.rint(exact).astype(int)
        bottom, right = (end - published for end in frame.shape[:2])
        inside = frame[
            max(top, 0) : max(min(top + side, bottom), 0), max(left, 0) : max(min(left + side, right), 0)
        ]
        canvas = np.zeros((side, side, 3), np.uint8)
        canvas[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]] = inside
        crop = cv2.resize(canvas, (out_px, out_px), interpolation=cv2.INTER_LINEAR)
        return crop, (exact if published else np.array([left, top])), side


def folder_argument():
    """The first of FOLDER VIDEO x,y,w,h."""
    if len(sys.argv) != 4:
        sys.exit(f"give three arguments: python {sys.argv[0]} FOLDER VIDEO x,y,w,h")
    return sys.argv[1]


def main(folder, encode, search):
    """Prints a line frame,x,y,w,h,score for every frame of the video after the first."""
    tracker = Tracker(folder, encode, search)
    video = cv2.VideoCapture(sys.argv[2])
    frame, index = video.read()[1], 0
    if frame is None:
        sys.exit(f"{sys.argv[2]} must be a video that can be read")
    tracker.init(frame[..., ::-1], [float(value) for value in sys.argv[3].split(",")])
    while (frame := video.read()[1]) is not None:
        index += 1
        box, score = tracker.update(frame[..., ::-1])
        print(index, *(f"{value:.3f}" for value in box), f"{score:.4f}", sep=",")
