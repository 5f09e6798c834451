"""Many videos at once in one process: a thread for each, one loaded model for all.

python examples/many_streams.py street.mp4:205,151,17,50 yard.mp4:40,60,30,80
"""

import sys
from concurrent.futures import ThreadPoolExecutor

from mixformerv2 import Tracker, track


def follow(video, box):
    """The last result of a video. Of the tracker its model is taken, which threads may share."""
    results = [result for _, result in track(video, box, tracker=tracker)]
    return results[-1]


if len(sys.argv) < 2 or not all(
    argument.count(":") and argument.count(",") == 3 for argument in sys.argv[1:]
):
    sys.exit(f"give one or more of VIDEO:x,y,w,h: python {sys.argv[0]} street.mp4:205,151,17,50")
jobs = [argument.rsplit(":", 1) for argument in sys.argv[1:]]
tracker = Tracker("tiny")
with ThreadPoolExecutor(max_workers=len(jobs)) as threads:
    boxes = [[float(value) for value in box.split(",")] for _, box in jobs]
    videos = [video for video, _ in jobs]
    for video, result in zip(videos, threads.map(follow, videos, boxes), strict=True):
        print(video, *(f"{value:.1f}" for value in result.box), f"{result.score:.2f}", result.state)
