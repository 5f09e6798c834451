"""OTB100 and UAV123: MATLAB benchmarks, pixels counted from 1, whose pages say which frames are annotated."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path

from mixformerv2.data.readers.annotation import (
    FIRST_PIXEL,
    first_folder,
    folders_in,
    names_of,
    read_rows,
    sequence_of_boxes,
    some_folders,
)
from mixformerv2.data.sequence import ImageFiles, LazySequences, NumberedFrames, Sequence, Sequences

# The folders of these sequences hold more frames than are annotated; the benchmark's page gives the ranges.
OTB_ANNOTATED_FRAMES = {
    "David": range(300, 771),
    "Diving": range(1, 216),
    "Football1": range(1, 75),
    "Freeman3": range(1, 461),
    "Freeman4": range(1, 284),
}


def read_otb(root: Path | str) -> Sequences:
    """OTB100, or any part of it: `root/Car4/img/0001.jpg` and `root/Car4/groundtruth_rect.txt`.

    A folder with several ground truth files gives one sequence per target: Jogging.1, Jogging.2. Empty ones, as Human4
    has, count for nothing.
    Raises ValueError if `root` has another layout; a sequence that is incomplete raises it when asked for.
    """
    root = Path(root)
    folders = [root / name for name in folders_in(root) if (root / name / "img").is_dir()]
    if not folders:
        raise ValueError(f"no OTB sequences in {root}: expected folders like {root / 'Car4' / 'img'}")
    files = {name: file for folder in folders for name, file in _otb_targets(folder).items()}
    return LazySequences(tuple(files), partial(_otb_sequence, files))


def looks_like_otb(root: Path) -> bool:
    names = ("groundtruth_rect.txt", "groundtruth_rect.1.txt")
    return any(
        # With images beside the boxes it is somebody's own clip.
        any((folder / name).is_file() for name in names) and not any(folder.glob("*.jpg"))
        for folder in some_folders(root)
    )


def _otb_targets(folder: Path) -> dict[str, Path]:
    matches = [re.fullmatch(r"groundtruth_rect(\.\d+)?\.txt", name) for name in sorted(os.listdir(folder))]
    targets = {match[1] or "": folder / match[0] for match in matches if match}
    if len(targets) > 1:
        targets = {suffix: file for suffix, file in targets.items() if file.read_bytes().strip()}
    if len(targets) < 2:
        return {folder.name: next(iter(targets.values()), folder / "groundtruth_rect.txt")}
    return {folder.name + suffix: file for suffix, file in targets.items()}


def _otb_sequence(files: dict[str, Path], name: str) -> Sequence:
    file = files[name]
    boxes = read_rows(file, columns=4)
    only = OTB_ANNOTATED_FRAMES.get(file.parent.name)
    frames = ImageFiles(NumberedFrames.find(file.parent / "img", only=only))
    return sequence_of_boxes(name, frames, boxes, first_pixel=FIRST_PIXEL["otb"], file=file)


# First and last frame of each sequence, by folder, as in the benchmark's configSeqs.m; neighbours may share a frame.
UAV123_ANNOTATED_FRAMES = """
bike1 1-3085, bike2 1-553, bike3 1-433, bird1 1-253 775-1477 1573-2437, boat1 1-901, boat2 1-799, boat3 1-901,
boat4 1-553, boat5 1-505, boat6 1-805, boat7 1-535, boat8 1-685, boat9 1-1399, building1 1-469, building2 1-577,
building3 1-829, building4 1-787, building5 1-481, car1 1-751 751-1627 1627-2629, car2 1-1321, car3 1-1717,
car4 1-1345, car5 1-745, car6 1-487 487-1807 1807-2953 2953-3925 3925-4861, car7 1-1033, car8 1-1357 1357-2575,
car9 1-1879, car10 1-1405, car11 1-337, car12 1-499, car13 1-415, car14 1-1327, car15 1-469,
car16 1-415 415-1993, car17 1-1057, car18 1-1207, car1_s 1-1475, car2_s 1-320, car3_s 1-1300, car4_s 1-830,
group1 1-1333 1333-2515 2515-3925 3925-4873, group2 1-907 907-1771 1771-2683,
group3 1-1567 1567-2827 2827-4369 4369-5527, person1 1-799, person2 1-1189 1189-2623, person3 1-643,
person4 1-1501 1501-2743, person5 1-877 877-2101, person6 1-901, person7 1-1249 1249-2065,
person8 1-1075 1075-1525, person9 1-661, person10 1-1021, person11 1-721, person12 1-601 601-1621, person13 1-883,
person14 1-847 847-1813 1813-2923, person15 1-1339, person16 1-1147, person17 1-1501 1501-2347, person18 1-1393,
person19 1-1243 1243-2791 2791-4357, person20 1-1783, person21 1-487, person22 1-199, person23 1-397,
person1_s 1-1600, person2_s 1-250, person3_s 1-505, truck1 1-463, truck2 1-385, truck3 1-535,
truck4 1-577 577-1261, uav1 1-1555 1555-2377 2473-3469, uav2 1-133, uav3 1-265, uav4 1-157, uav5 1-139, uav6 1-109,
uav7 1-373, uav8 1-301, wakeboard1 1-421, wakeboard2 1-733, wakeboard3 1-823, wakeboard4 1-697, wakeboard5 1-1675,
wakeboard6 1-1165, wakeboard7 1-199, wakeboard8 1-1543, wakeboard9 1-355, wakeboard10 1-469
"""


def uav123_frames() -> dict[str, tuple[str, range]]:
    """Name of each of the 123 sequences -> its folder and the numbers of its frames."""
    frames = {}
    for entry in UAV123_ANNOTATED_FRAMES.split(","):
        folder, *spans = entry.split()
        for number, span in enumerate(spans, 1):
            first, last = map(int, span.split("-"))
            frames[f"{folder}_{number}" if len(spans) > 1 else folder] = (folder, range(first, last + 1))
    return frames


def read_uav123(root: Path | str) -> Sequences:
    """UAV123, or the part that `root/anno/UAV123` holds: bird1_1.txt there, `root/data_seq/UAV123/bird1/000001.jpg`.

    A box of nan is a target that is covered or outside the picture; the files do not say which.
    Raises ValueError if `root` has another layout; a sequence that is incomplete raises it when asked for.
    """
    root = Path(root)
    names = names_of(root / "anno" / "UAV123", ".txt")
    if not names:
        raise ValueError(f"no UAV123 in {root}: expected {root / 'anno' / 'UAV123' / 'bike1.txt'}")
    return LazySequences(tuple(names), partial(_uav123_sequence, root))


def looks_like_uav123(root: Path) -> bool:
    return (root / "anno" / "UAV123").is_dir() and (root / "data_seq" / "UAV123").is_dir()


def _uav123_sequence(root: Path, name: str) -> Sequence:
    folder, only = uav123_frames().get(name, (name, None))
    file = root / "anno" / "UAV123" / f"{name}.txt"
    boxes = read_rows(file, columns=4)
    frames = ImageFiles(
        NumberedFrames.find(first_folder(name, root / "data_seq" / "UAV123" / folder), only=only)
    )
    return sequence_of_boxes(name, frames, boxes, first_pixel=FIRST_PIXEL["uav123"], file=file)
