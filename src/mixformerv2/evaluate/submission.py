"""Archives for the servers of GOT-10k and TrackingNet, which keep the boxes of their test parts to themselves.

Nothing is written before all of it is there: a server takes few archives a day and says little about a wrong one.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mixformerv2 import geometry
from mixformerv2.data.benchmarks import FIRST_PIXEL
from mixformerv2.evaluate.run import OnePass
from mixformerv2.files import whole_file

_EARLIEST = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # the time of all files inside, so that the same results are the same archive


def write_submission(
    kind: str, path: str | Path, passes: Mapping[str, OnePass], lengths: Mapping[str, int | None]
) -> None:
    """The archive of ``kind``, one of `SUBMISSIONS`, at ``path``, replacing what is there.

    ``lengths`` are the frames of every sequence of the dataset, by name. Raises ValueError where a sequence, a frame
    or a finite box is missing, OSError where the file cannot be written.
    """
    files = SUBMISSIONS[kind]
    for name, length in lengths.items():
        _check(name, passes.get(name), length)
    with (
        whole_file(path, overwrite=True) as unfinished,
        zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in lengths:
            for inner, text in files(name, passes[name]):
                entry = zipfile.ZipInfo(inner, _EARLIEST)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, text, zipfile.ZIP_DEFLATED)


def got10k_files(name: str, result: OnePass) -> Iterator[tuple[str, str]]:
    """``NAME/NAME_001.txt``, the boxes x,y,w,h of the first run, and ``NAME/NAME_time.txt``, the seconds of each frame.

    As the toolkit records them: three and eight decimals. A tracker that repeats itself is run once.
    """
    yield f"{name}/{name}_001.txt", _lines(_boxes(result, "got10k"), decimals=3)
    yield f"{name}/{name}_time.txt", _lines(result.seconds[:, None], decimals=8)


def trackingnet_files(name: str, result: OnePass) -> Iterator[tuple[str, str]]:
    """``NAME.txt``, the boxes x,y,w,h; the server rounds them to whole pixels."""
    yield f"{name}.txt", _lines(_boxes(result, "trackingnet"), decimals=2)


SUBMISSIONS: dict[str, Callable[[str, OnePass], Iterator[tuple[str, str]]]] = {
    "got10k": got10k_files,
    "trackingnet": trackingnet_files,
}
"""Kind of archive -> the files of one sequence in it, names and contents."""


def _boxes(result: OnePass, dataset: str) -> Float[np.ndarray, "frames 4"]:
    """xywh as the dataset counts its pixels."""
    first_pixel = FIRST_PIXEL[dataset]
    offset = np.array([first_pixel, first_pixel, 0, 0])
    return np.asarray(geometry.xyxy_to_xywh(result.boxes_frame) + offset)


def _lines(rows: Float[np.ndarray, "frames columns"], decimals: int) -> str:
    return "".join(",".join(f"{value:.{decimals}f}" for value in row) + "\n" for row in rows.tolist())


def _check(name: str, result: OnePass | None, length: int | None) -> None:
    wanted = "a submission must have a finite box for every frame of every sequence"
    if length is None:
        raise ValueError(f"{wanted}, and the frames of {name} cannot be read")
    if result is None:
        raise ValueError(f"{wanted}, and {name} has no results")
    if result.first_frame != 0 or len(result.boxes_frame) != length:
        last = result.first_frame + len(result.boxes_frame) - 1
        raise ValueError(
            f"{wanted}, and {name} has the frames {result.first_frame} to {last} of 0 to {length - 1}"
        )
    broken = np.flatnonzero(~np.isfinite(result.boxes_frame).all(axis=1))
    if len(broken):
        raise ValueError(f"{wanted}, and {name} has none for frame {broken[0]}")
