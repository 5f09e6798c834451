"""What a tracker can be evaluated on: by name or recognised, and what is said where it is not as it should be."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from layouts import development_data
from trackers import LEVELS, box_of, write_frames, write_otb

from mixformerv2.data.benchmarks import LAYOUTS, READERS
from mixformerv2.evaluate.datasets import EVALUATED, open_for_evaluation
from mixformerv2.evaluate.protocols import PROTOCOLS
from mixformerv2.evaluate.submission import SUBMISSIONS


def write_got10k(root: Path, part: str, length: int = 3) -> Path:
    name = f"GOT-10k_{part.capitalize()}_000001"
    folder = root / part / name
    write_frames(folder, LEVELS["a"], range(length), digits=8)
    boxes = [",".join(map(str, box_of(index))) for index in range(length)]
    (folder / "groundtruth.txt").write_text("\n".join(boxes[: 1 if part == "test" else None]) + "\n")
    if part != "test":
        (folder / "absence.label").write_text("0\n" * length)
        (folder / "cover.label").write_text("8\n" * length)
    (root / part / "list.txt").write_text(name + "\n")
    return root


def write_clips(root: Path) -> Path:
    for name in ("a", "b"):
        write_frames(root / name, LEVELS[name], range(3))
        lines = [",".join(map(str, box_of(index))) for index in range(3)]
        (root / name / "boxes.csv").write_text("\n".join(["x,y,w,h", *lines]) + "\n")
    return root


def test_every_benchmark_has_a_reader_a_layout_and_a_protocol() -> None:
    for name, benchmark in EVALUATED.items():
        assert benchmark.protocol in PROTOCOLS, name
        assert benchmark.submission is None or benchmark.submission in SUBMISSIONS, name
        assert benchmark.has_truth or benchmark.submission, "of no use otherwise"
        if name != "folder":
            assert benchmark.reader in READERS, name
            assert benchmark.layout in LAYOUTS, name


def test_every_published_test_set_that_is_read_can_be_evaluated() -> None:
    # COCO has no videos.
    assert {benchmark.layout for benchmark in EVALUATED.values()} == {*LAYOUTS, ""} - {"coco"}


def test_a_dataset_is_opened_by_name_with_the_lengths_of_its_sequences(tmp_path: Path) -> None:
    opened = open_for_evaluation("otb", write_otb(tmp_path, {"b": 3, "a": 4}))
    assert (opened.name, opened.benchmark.title, opened.broken) == ("otb", "OTB100", {})
    assert opened.lengths == {"a": 4, "b": 3}
    assert [*opened.sequences] == ["a", "b"]
    np.testing.assert_array_equal(opened.sequences["a"].boxes_frame[0], [5, 4, 15, 14])


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (["train", "val", "test"], "got10k-val"),
        (["train", "test"], "got10k-test"),
        (["train"], "got10k-train"),
    ],
)
def test_auto_takes_the_part_of_got10k_that_is_there_and_has_truth_first(
    tmp_path: Path, parts: list[str], name: str
) -> None:
    for part in parts:
        write_got10k(tmp_path, part)
    assert open_for_evaluation("auto", tmp_path).name == name


def test_auto_recognises_otb_and_ones_own_clips(tmp_path: Path) -> None:
    assert open_for_evaluation("auto", write_otb(tmp_path / "one", {"a": 3})).name == "otb"
    above = open_for_evaluation("auto", tmp_path)
    assert (above.name, above.root) == ("otb", tmp_path / "one")
    opened = open_for_evaluation("auto", write_clips(tmp_path / "two"))
    assert (opened.name, opened.lengths) == ("folder", {"a": 3, "b": 3})
    assert open_for_evaluation("folder", tmp_path / "two").lengths == opened.lengths


def test_of_the_test_part_of_got10k_only_the_first_box_is_known(tmp_path: Path) -> None:
    opened = open_for_evaluation("got10k-test", write_got10k(tmp_path, "test"))
    (sequence,) = opened.sequences.values()
    assert sequence.absent.tolist() == [False, True, True]
    assert not opened.benchmark.has_truth


def test_some_sequences_can_be_named(tmp_path: Path) -> None:
    root = write_otb(tmp_path, dict.fromkeys("abc", 3))
    assert [*open_for_evaluation("otb", root, ["c", "a"]).lengths] == ["a", "c"]
    with pytest.raises(ValueError, match="the dataset otb has no sequence x, y: it has a, b, c$"):
        open_for_evaluation("otb", root, ["x", "a", "y"])


def test_many_names_are_not_all_listed(tmp_path: Path) -> None:
    root = write_otb(tmp_path, dict.fromkeys(LEVELS, 2))
    with pytest.raises(ValueError, match="it has a, b, c, d, e, f, g, h and 2 more$"):
        open_for_evaluation("otb", root, ["x"])


# --- what is wrong with a dataset


def test_an_unknown_name_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="no dataset is called 'otb2015': choose one of otb, lasot, .*, auto$"
    ):
        open_for_evaluation("otb2015", tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"looked for in the folder {tmp_path}/none, which is not there"):
        open_for_evaluation("otb", tmp_path / "none")


def test_a_dataset_one_folder_further_down_is_said_so(tmp_path: Path) -> None:
    root = write_otb(tmp_path / "otb", {"a": 3})
    with pytest.raises(ValueError, match=f"no OTB sequences in .*; what is there looks like otb in {root}"):
        open_for_evaluation("otb", tmp_path)


def test_shards_are_said_to_be_for_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixformerv2.evaluate.datasets.is_packed", lambda root: root == tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} holds shards, which are for training: evaluate on"):
        open_for_evaluation("otb", tmp_path)


@pytest.mark.parametrize("name", [name for name in EVALUATED if name not in ("otb", "folder")])
def test_another_dataset_in_the_folder_is_said_so(tmp_path: Path, name: str) -> None:
    root = write_otb(tmp_path, {"a": 3})
    with pytest.raises(ValueError, match="expected|needs its published list: put .* into") as refused:
        open_for_evaluation(name, root)
    assert str(refused.value).endswith(f"; what is there looks like otb in {root}")


def test_auto_needs_one_dataset_and_no_more(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no dataset is recognised in"):
        open_for_evaluation("auto", tmp_path)
    write_otb(tmp_path / "one", {"a": 3})
    write_got10k(tmp_path / "two", "val")
    with pytest.raises(
        ValueError, match="must be the only one in .*, which holds otb in .*one, got10k in .*two: name it"
    ):
        open_for_evaluation("auto", tmp_path)


def test_a_sequence_that_is_not_whole_is_broken_and_the_others_are_not(tmp_path: Path) -> None:
    root = write_otb(tmp_path, dict.fromkeys("abcd", 4))
    (root / "a/img/0002.jpg").unlink()
    (root / "b/groundtruth_rect.txt").write_text("1,1,5,5\n" * 3)
    (root / "c/groundtruth_rect.txt").write_text("1,1,5,5\n1,1,nan,5\n1,1,5,five\n1,1,5,5\n")
    opened = open_for_evaluation("otb", root)
    assert opened.lengths == {"a": None, "b": None, "c": None, "d": 4}
    assert [*opened.sequences] == ["d"]
    said = {name: failure.sentence for name, failure in opened.broken.items()}
    assert re.search("incomplete: 0002.jpg is missing", said["a"])
    assert re.search("3 .*4 frames", said["b"])
    assert "groundtruth_rect.txt" in said["c"]


def test_a_box_of_nan_is_a_frame_without_a_box(tmp_path: Path) -> None:
    root = write_otb(tmp_path, {"a": 3})
    (root / "a/groundtruth_rect.txt").write_text("5,5,9,9\nnan,nan,nan,nan\n5,5,9,9\n")
    assert open_for_evaluation("otb", root).sequences["a"].absent.tolist() == [False, True, False]


@pytest.mark.parametrize("name", ["auto", "vot"])
def test_a_part_whose_boxes_are_secret_is_not_taken_for_one_to_be_scored(name: str, tmp_path: Path) -> None:
    root = write_got10k(tmp_path, "test")
    assert open_for_evaluation("auto", root).name == "got10k-test"
    with pytest.raises(ValueError, match="must have true boxes to be scored.* got10k-test"):
        open_for_evaluation(name, root / "test")


# --- the development data


def test_the_development_data_are_recognised() -> None:
    data = development_data()
    otb = open_for_evaluation("auto", data / "otb")
    assert (otb.name, len(otb.sequences), otb.broken) == ("otb", 11, {})
    assert sum(length or 0 for length in otb.lengths.values()) == 4151
    assert open_for_evaluation("auto", data / "got10k").name == "got10k-train"
