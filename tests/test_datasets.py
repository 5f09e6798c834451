"""Recognising datasets in folders, and the report of what is there, missing or broken."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import training
from layouts import development_data, write_got10k, write_images, write_text
from rich.console import Console

from mixformerv2.data.benchmarks import LAYOUTS
from mixformerv2.data.datasets import (
    DatasetReport,
    Report,
    check,
    find_datasets,
    open_datasets,
    report_lines,
    report_table,
)
from mixformerv2.data.packing import Problem, pack


def write_otb(root: Path, name: str = "Car4", frames: int = 2) -> None:
    write_images(root / name / "img", range(1, frames + 1), digits=4)
    write_text(root / name / "groundtruth_rect.txt", *["1,1,10,5"] * frames)


def write_clip(folder: Path, frames: int = 2, boxes: str = "boxes.txt") -> None:
    write_images(folder, range(1, frames + 1))
    write_text(folder / boxes, *["1,1,5,5"] * frames)


def write_coco(root: Path, images: int = 2) -> None:
    write_images(root / "images", range(1, images + 1), digits=4)
    numbers = range(1, images + 1)
    listed = [{"id": each, "file_name": f"{each:04d}.jpg", "width": 32, "height": 24} for each in numbers]
    objects = [
        {"id": each, "image_id": each, "category_id": 1, "bbox": [2, 3, 4, 2], "iscrowd": 0}
        for each in numbers
    ]
    for each in objects:
        each["segmentation"] = [[2, 3, 6, 3, 6, 5, 2, 5]]
    content = {"images": listed, "annotations": objects, "categories": [{"id": 1, "name": "object"}]}
    (root / "annotations.json").write_text(json.dumps(content))


def shown(report: Report) -> str:
    printed = io.StringIO()
    Console(width=200, file=printed).print(report_table(report))
    return printed.getvalue()


# Recognition


def test_a_folder_holds_datasets_of_any_kind(tmp_path: Path) -> None:
    write_otb(tmp_path / "benchmark")
    write_got10k(tmp_path / "GOT", "1,1,5,5\n" * 2, absence="0\n1\n", cover="8\n8\n", frames=2)
    write_coco(tmp_path / "stills")
    write_clip(tmp_path / "mine" / "dog")
    (tmp_path / "unrelated").mkdir()
    (tmp_path / ".hidden").mkdir()
    opened = open_datasets(tmp_path)
    assert {kind: len(sequences) for kind, sequences in opened.items()} == {
        "otb": 1,
        "got10k": 1,
        "coco": 2,
        "folder": 1,
    }
    assert [sequence.name for sequence in opened["folder"]] == ["dog"]


@pytest.mark.parametrize("place", ["", "benchmark"])
def test_a_folder_may_be_the_dataset_itself(tmp_path: Path, place: str) -> None:
    write_otb(tmp_path / "benchmark")
    assert {kind: len(sequences) for kind, sequences in open_datasets(tmp_path / place).items()} == {"otb": 1}


def test_two_of_one_kind_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    write_clip(tmp_path / "mine" / "dog")
    write_clip(tmp_path / "yours" / "cat")
    write_clip(tmp_path / "bird")
    write_otb(tmp_path / "benchmark")
    opened = open_datasets(tmp_path)
    assert {key: [sequence.name for sequence in sequences] for key, sequences in opened.items()} == {
        "otb": ["Car4"],
        "folder:mine": ["dog"],
        "folder:yours": ["cat"],
        f"folder:{tmp_path.name}": ["bird"],
    }


def test_clips_that_are_folders_make_one_dataset(tmp_path: Path) -> None:
    write_clip(tmp_path / "dog")
    write_clip(tmp_path / "cat", boxes="../cat.csv")
    assert [sequence.name for sequence in open_datasets(tmp_path)["folder"]] == ["cat", "dog"]


def test_packed_datasets_keep_their_keys(tmp_path: Path) -> None:
    write_coco(tmp_path / "stills")
    write_clip(tmp_path / "mine" / "dog")
    pack(open_datasets(tmp_path), tmp_path / "packed")
    for root in (tmp_path / "packed", f"file://{tmp_path}/packed"):
        assert {key: len(each) for key, each in open_datasets(root).items()} == {"coco": 2, "folder": 1}
        report = check(root, images_every=1)
        assert not report.broken
        assert [(each.dataset, each.sequences, each.sequences_with_masks) for each in report.datasets] == [
            ("coco", 2, 2),
            ("folder", 1, 0),
        ]
    assert list(open_datasets(tmp_path)) == ["coco:packed", "folder:packed", "coco:stills", "folder:mine"]


def test_a_test_part_alone_is_checked_but_not_trained_on(tmp_path: Path) -> None:
    write_got10k(tmp_path / "GOT", "1,1,5,5\n", absence="0\n", cover="8\n", frames=2, part="test")
    with pytest.raises(ValueError, match="must have parts to train on, got test parts only"):
        open_datasets(tmp_path)
    write_clip(tmp_path / "mine" / "dog")
    assert list(open_datasets(tmp_path)) == ["folder"]
    got10k, folder = check(tmp_path).datasets
    assert (got10k.dataset, got10k.sequences, got10k.frames, got10k.frames_absent) == ("got10k", 1, 2, 1)
    assert folder.dataset == "folder"


def test_nothing_recognised_says_what_is_missing(tmp_path: Path) -> None:
    for use in (open_datasets, check):
        with pytest.raises(ValueError, match="no dataset is recognised in") as caught:
            use(tmp_path)
        assert all(f" {kind}" in str(caught.value) for kind in LAYOUTS)
    (tmp_path / "clip.mp4").touch()
    for use in (open_datasets, check):
        with pytest.raises(
            ValueError, match=r"no dataset .*: it holds 1 video without boxes, .* belongs dog\.csv"
        ):
            use(tmp_path)
    with pytest.raises(ValueError, match="looked for in a folder, and .*none is none"):
        open_datasets(tmp_path / "none")


def test_an_unfinished_packing_is_named(tmp_path: Path) -> None:
    write_clip(tmp_path / "mine" / "dog")
    pack(open_datasets(tmp_path / "mine"), tmp_path / "packed")
    (tmp_path / "packed" / "index.json").unlink()
    with pytest.raises(ValueError, match="its packing was not finished"):
        open_datasets(tmp_path)


# The report


def test_the_report_counts_what_is_there(tmp_path: Path) -> None:
    write_got10k(tmp_path / "GOT", "1,1,5,5\n" * 4, absence="0\n1\n0\n0\n", cover="8\n8\n3\n0\n", frames=4)
    write_got10k(tmp_path / "GOT", "1,1,5,5\n" * 2, absence="0\n0\n", cover="8\n8\n", frames=2, part="val")
    write_coco(tmp_path / "stills")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").touch()
    (tmp_path / "clips" / "b.MOV").touch()
    steps: list[tuple[str, int, int]] = []
    report = check(tmp_path, progress=lambda *step: steps.append(step))
    assert report == Report(
        root=str(tmp_path),
        datasets=(
            DatasetReport("got10k-train", str(tmp_path / "GOT"), 1, 4, 2, 2, 0, 1, ()),
            DatasetReport("got10k-val", str(tmp_path / "GOT"), 1, 2, 0, 0, 0, 1, ()),
            DatasetReport("coco", str(tmp_path / "stills"), 2, 2, 0, None, 2, 0, ()),
        ),
        notes=(f"{tmp_path / 'clips'}: 2 videos without boxes",),
    )
    assert not report.broken
    assert json.loads(json.dumps(report.to_json()))["datasets"][0]["frames_absent"] == 2
    assert steps == [("got10k-train", 1, 1), ("got10k-val", 1, 1), ("coco", 1, 2), ("coco", 2, 2)]
    table = shown(report)
    assert [line.split("│")[1:4] for line in table.splitlines() if "got10k-val" in line] == [
        [" got10k-val   ", " GOT    ", "         1 "]
    ]
    assert report_lines(report) == list(report.notes)


def test_a_half_downloaded_dataset_is_called_so_and_its_gaps_are_named(tmp_path: Path) -> None:
    folder = write_got10k(tmp_path, "1,1,5,5\n" * 2, absence="0\n0\n", cover="8\n8\n", frames=2)
    write_text(tmp_path / "train" / "list.txt", folder.name, "GOT-10k_Train_000002", "GOT-10k_Train_000003")
    report = check(tmp_path)
    (dataset,) = report.datasets
    assert report.broken
    assert (dataset.sequences, dataset.frames) == (1, 2)
    assert dataset.problems[0] == Problem("", "half-downloaded: files are missing of 2 of its 3 sequences")
    assert [problem.sequence for problem in dataset.problems[1:]] == [
        "GOT-10k_Train_000002",
        "GOT-10k_Train_000003",
    ]
    lines = report_lines(report, most=2)
    assert lines[0] == "got10k: half-downloaded: files are missing of 2 of its 3 sequences"
    assert lines[1].startswith("got10k GOT-10k_Train_000002: sequence GOT-10k_Train_000002 has no folder")
    assert lines[2] == "got10k: and 1 more problems"


def test_boxes_that_do_not_fit_the_frames_are_a_problem_and_no_half_download(tmp_path: Path) -> None:
    write_otb(tmp_path, "Car4")
    write_otb(tmp_path, "David3")
    write_text(tmp_path / "David3" / "groundtruth_rect.txt", "1,1,10,5")
    (dataset,) = check(tmp_path).datasets
    (problem,) = dataset.problems
    assert problem.sequence == "David3"
    assert "has 1 boxes for 2 frames" in problem.sentence
    assert dataset.sequences == 1


def test_a_clip_without_a_box_and_a_box_beside_its_picture_are_problems(tmp_path: Path) -> None:
    for name, row in (("nothing", "nan,nan,nan,nan"), ("beside", "5000,5000,5,5"), ("good", "5,5,9,9")):
        training.write_clip(tmp_path, name, frames=2)
        (tmp_path / name / "boxes.txt").write_text(f"{row}\n" * 2)
    (folder,) = check(tmp_path).datasets
    assert {problem.sequence: problem.sentence.split(": ")[-1] for problem in folder.problems} == {
        "nothing": "no frame has a box",
        "beside": "it must overlap it",
    }


@pytest.mark.parametrize(("images_every", "images_read"), [(None, 1), (1, 8), (4, 2)])
def test_images_are_decoded_when_asked_and_the_unreadable_named(
    tmp_path: Path, images_every: int | None, images_read: int
) -> None:
    write_otb(tmp_path, frames=8)
    for number in (2, 4, 5, 6, 7):
        (tmp_path / "Car4" / "img" / f"{number:04d}.jpg").write_bytes(b"no image")
    (dataset,) = check(tmp_path, images_every=images_every).datasets
    assert dataset.images_read == images_read
    assert dataset.sequences == 1
    if images_every is None:
        assert dataset.problems == ()
        return
    (problem,) = dataset.problems
    named = [number for number in range(1, 9) if f"{number:04d}.jpg" in problem.sentence]
    assert named == ([2, 4, 5] if images_every == 1 else [5])
    assert problem.sentence.endswith("(and 2 more)") == (images_every == 1)


def test_the_first_image_of_a_video_is_always_read(tmp_path: Path) -> None:
    write_otb(tmp_path)
    (tmp_path / "Car4" / "img" / "0001.jpg").write_bytes(b"")
    (dataset,) = check(tmp_path).datasets
    assert "0001.jpg" in dataset.problems[0].sentence


def test_a_still_without_its_image_is_found_without_decoding_all(tmp_path: Path) -> None:
    write_coco(tmp_path, images=3)
    (tmp_path / "images" / "0002.jpg").unlink()
    (tmp_path / "images" / "0003.jpg").write_bytes(b"no image")
    (dataset,) = check(tmp_path).datasets
    assert dataset.images_read == 1
    assert dataset.problems[0].sentence == "half-downloaded: files are missing of 1 of its 3 sequences"
    assert "0002.jpg" in dataset.problems[1].sentence
    (dataset,) = check(tmp_path, images_every=1).datasets
    assert dataset.images_read == 3
    assert "0003.jpg" in dataset.problems[2].sentence


def test_a_picture_of_another_size_than_its_mask_is_named(tmp_path: Path) -> None:
    masks = tmp_path / "Annotations" / "480p" / "bear"
    write_images(tmp_path / "JPEGImages" / "480p" / "bear", range(2), digits=5)
    masks.mkdir(parents=True)
    for index in range(2):
        cv2.imwrite(str(masks / f"{index:05d}.png"), np.full((10, 10), 1, np.uint8))
    (dataset,) = check(tmp_path).datasets
    assert any(
        "another size" in problem.sentence or "size" in problem.sentence for problem in dataset.problems
    )


def test_shards_that_were_not_copied_whole_are_a_problem(tmp_path: Path) -> None:
    write_clip(tmp_path / "mine" / "dog")
    pack(open_datasets(tmp_path / "mine"), tmp_path / "packed")
    shard = tmp_path / "packed" / "folder-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    (dataset,) = check(tmp_path / "packed").datasets
    (problem,) = dataset.problems
    assert "folder-000000.tar must have" in problem.sentence


def test_a_recognised_folder_that_cannot_be_opened_is_a_problem(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "annotations.json").write_text("no json")
    report = check(tmp_path)
    assert report.broken
    assert "is not a COCO instances file" in report.datasets[0].problems[0].sentence
    with pytest.raises(ValueError, match="is not a COCO instances file"):
        open_datasets(tmp_path)


def test_a_wrong_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images_every must be 1 or more, got 0"):
        check(tmp_path, images_every=0)


def test_brackets_in_names_are_shown_as_they_are(tmp_path: Path) -> None:
    write_otb(tmp_path / "[bold]clips")
    assert "[bold]clips" in shown(check(tmp_path))


# Development data


def test_the_development_data_is_recognised() -> None:
    report = check(development_data())
    counts = {each.dataset: (each.sequences, each.frames, each.frames_absent) for each in report.datasets}
    assert counts == {"otb": (11, 4151, 0), "got10k": (5, 2280, 230), "coco": (9781, 9781, 0)}
    assert not report.broken
    assert [note.rsplit("/", 1)[1] for note in report.notes] == ["clips: 25 videos without boxes"]
    assert find_datasets(development_data()).keys() == counts.keys()
