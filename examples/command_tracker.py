"""A whole tracker that speaks the protocol of `mixformerv2.evaluate.command`: template matching near the last box.

mixformerv2 evaluate --tracker "command:python examples/command_tracker.py" --dataset otb --root DIR --output RUN
"""

import json
import sys

import cv2
import numpy as np


def read_grey(request):
    """The frame: a PPM file's pixels, RGB, are its last bytes."""
    height, width = request["height"], request["width"]
    with open(request["frame"], "rb") as file:
        pixels = np.frombuffer(file.read(), np.uint8)[-height * width * 3 :]
    return cv2.cvtColor(pixels.reshape(height, width, 3), cv2.COLOR_RGB2GRAY)


def say(answer):
    print(json.dumps(answer), flush=True)


say({"protocol": 1, "name": "template matching"})
for line in sys.stdin:
    request = json.loads(line)
    frame = read_grey(request)
    if request["type"] == "init":
        x, y, w, h = (round(value) for value in request["box"])
        x, y = min(max(x, 0), frame.shape[1] - 2), min(max(y, 0), frame.shape[0] - 2)
        template = frame[y : y + max(h, 2), x : x + max(w, 2)]
        h, w = template.shape
        say({})
    else:
        left, top = max(x - w, 0), max(y - h, 0)
        likeness = cv2.matchTemplate(frame[top : y + 2 * h, left : x + 2 * w], template, cv2.TM_CCOEFF_NORMED)
        _, score, _, (dx, dy) = cv2.minMaxLoc(likeness)
        x, y = left + dx, top + dy
        say({"box": [x, y, w, h], "score": max(score, 0.0)})
