"""Need for Speed: 100 videos at 240 frames a second, and the same at 30, both annotated at 240."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mixformerv2.data.readers.annotation import (
    FIRST_PIXEL,
    first_folder,
    folders_in,
    read_lines,
    sequence_of_boxes,
    some_folders,
)
from mixformerv2.data.sequence import ImageFiles, LazySequences, NumberedFrames, Sequence, Sequences

RATIO = 8
"""frames at 240 a second for one at 30"""


def read_nfs(root: Path | str, fps: int) -> Sequences:
    """Need for Speed at `fps` 30 or 240: `root/car/30/car/00001.jpg` and `root/car/30/car.txt`.

    The rows are those of VATIC: id, x1, y1, x2, y2, frame from 1, lost, occluded, generated, label. Lost is out of
    view and absent; a frame without a row is absent, that is, no box is known.
    Raises ValueError if `root` has another layout; a sequence that is incomplete raises it when asked for.
    """
    if fps not in (30, 240):
        raise ValueError(f"fps must be 30 or 240, got {fps}")
    root = Path(root)
    names = [name for name in folders_in(root) if (root / name / str(fps)).is_dir()]
    if not names:
        raise ValueError(
            f"no NfS at {fps} frames a second in {root}: expected {root / 'car' / str(fps) / 'car.txt'}"
        )
    return LazySequences(tuple(names), partial(_nfs_sequence, root, fps))


def looks_like_nfs(root: Path, fps: int) -> bool:
    """Whether the videos are there at this rate; for 240, that they are not at 30, as published they are at both."""
    folders = some_folders(root)
    slow = any((folder / "30" / f"{folder.name}.txt").is_file() for folder in folders)
    fast = any((folder / "240" / f"{folder.name}.txt").is_file() for folder in folders)
    return slow if fps == 30 else fast and not slow


def _nfs_sequence(root: Path, fps: int, name: str) -> Sequence:
    folder = root / name / str(fps)
    file = folder / f"{name}.txt"
    rows = _read_vatic(file)
    frames = ImageFiles(NumberedFrames.find(first_folder(name, folder / name)))
    index = rows[:, 5].astype(int) - 1
    if fps == 30 and index.max() >= 2 * len(frames):
        # Most files beside the slow videos are those of the fast ones.
        rows, index = rows[index % RATIO == 0], index[index % RATIO == 0] // RATIO
    if abs(int(index.max()) + 1 - len(frames)) > (RATIO if fps == 240 else 1):
        raise ValueError(
            f"sequence {name} has {index.max() + 1} annotated frames of {len(frames)}: {file}, {folder / name}"
        )
    # The published files end up to one interval before or after the video.
    rows, index = rows[index < len(frames)], index[index < len(frames)]
    per_frame = np.full((len(frames), 6), np.nan)
    per_frame[index] = rows[:, [1, 2, 3, 4, 6, 7]]
    boxes_xywh = np.concatenate([per_frame[:, :2], per_frame[:, 2:4] - per_frame[:, :2]], axis=1)
    lost, occluded = per_frame[:, 4] == 1, per_frame[:, 5] == 1
    return sequence_of_boxes(
        name,
        frames,
        boxes_xywh,
        first_pixel=FIRST_PIXEL["nfs"],
        file=file,
        absent=lost,
        occluded=occluded,
        out_of_view=lost,
    )


def _read_vatic(path: Path) -> Float[np.ndarray, "rows 8"]:
    """The first eight columns; behind them stands a label in quotation marks, with or without spaces."""
    lines = [line.split()[:8] for line in read_lines(path)]
    if not lines:
        raise ValueError(f"{path} holds no boxes")
    for number, line in enumerate(lines, 1):
        if len(line) < 8:
            raise ValueError(f"{path}: row {number} must have at least 8 numbers, got {' '.join(line)!r}")
    try:
        rows = np.array(lines, np.float64)
    except ValueError as error:
        raise ValueError(f"{path} must begin every row with 8 numbers: {error}") from error
    if not (np.isfinite(rows[:, 5]) & (rows[:, 5] >= 1)).all():
        raise ValueError(f"{path} must count frames from 1 in column 6, got {rows[:, 5].min():g}")
    return rows
