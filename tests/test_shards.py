"""Datasets packed into shards: read back at random, streamed by WebDataset, and left alone when unfinished."""

from __future__ import annotations

import dataclasses
import errno
import json
import pickle
import tarfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import fsspec
import numpy as np
import pytest
from jaxtyping import Bool

from mixformerv2.data import shards
from mixformerv2.data.folder import UprightImages
from mixformerv2.data.packing import pack
from mixformerv2.data.sequence import Frames, ImageFiles, LazySequences, Masks, Sequence
from mixformerv2.data.shards import INDEX_NAME, PackedFrames, incomplete_shards, is_packed, read_shards
from mixformerv2.data.video_frames import VideoFrames

NAN = [np.nan] * 4


@dataclass(frozen=True)
class LeftHalf:
    """The target fills the left half of pictures of 32 x 24 px."""

    def read(self, index: int) -> Bool[np.ndarray, "h w"]:
        mask = np.zeros((24, 32), bool)
        mask[:, :16] = True
        return mask


def write_images(folder: Path, num_frames: int, suffix: str = ".jpg") -> tuple[Path, ...]:
    """Noise of 32 x 24 px, which shows whether pixels are exactly the same."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(len(folder.name))
    paths = tuple(folder / f"{index:04d}{suffix}" for index in range(num_frames))
    for path in paths:
        cv2.imwrite(str(path), random.integers(0, 256, (24, 32, 3), np.uint8))
    return paths


def make_sequence(folder: Path, num_frames: int = 4, suffix: str = ".jpg", **parts: Any) -> Sequence:
    """The box moves by one px a frame; the target is absent from the last."""
    boxes_frame = np.array([[index, 2, index + 10.5, 8] for index in range(num_frames)], np.float64)
    boxes_frame[-1] = np.nan
    absent = np.arange(num_frames) == num_frames - 1
    return Sequence(
        folder.name, ImageFiles(write_images(folder, num_frames, suffix)), boxes_frame, absent, **parts
    )


def samples_of(shard: Path) -> list[dict[str, Any]]:
    """What the WebDataset package makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own affairs
        import webdataset

        return list(webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False))


# Round trip


def test_a_packed_sequence_is_the_sequence(tmp_path: Path) -> None:
    flags = {"occluded": np.array([0, 1, 0, 0], bool), "out_of_view": np.array([0, 0, 0, 1], bool)}
    flags["unknown"] = np.zeros(4, bool)
    original = make_sequence(tmp_path / "Jogging.1", **flags, masks=LeftHalf())
    packed = pack({"otb": [original]}, tmp_path / "packed")
    assert (packed.sequences, packed.frames, packed.shards, packed.problems) == (1, 4, 1, ())
    assert packed.num_bytes == (tmp_path / "packed" / "otb-000000.tar").stat().st_size
    sequences = read_shards(tmp_path / "packed")["otb"]
    assert isinstance(sequences, LazySequences)
    assert sequences.names == ("Jogging.1",)
    (sequence,) = sequences
    assert isinstance(sequence.frames, Frames) and isinstance(sequence.masks, Masks)
    for column in ("boxes_frame", "absent", "occluded", "out_of_view", "unknown"):
        assert np.array_equal(getattr(sequence, column), getattr(original, column), equal_nan=True), column
    for index in (3, 0, 2, 1):
        assert np.array_equal(sequence.frame(index), original.frame(index))
        assert np.array_equal(sequence.masks.read(index), LeftHalf().read(index))


def test_targets_of_one_picture_are_known_to_be_so(tmp_path: Path) -> None:
    one = make_sequence(tmp_path / "one")
    other, same = make_sequence(tmp_path / "two"), dataclasses.replace(one, name="again")
    pack({"otb": [one, other, same]}, tmp_path / "packed")
    packed = [*read_shards(tmp_path / "packed")["otb"]]
    assert one.same_pictures(same)
    assert packed[0].same_pictures(packed[2]) and not packed[0].same_pictures(packed[1])


def test_what_a_dataset_does_not_say_stays_unsaid(tmp_path: Path) -> None:
    pack({"otb": [make_sequence(tmp_path / "a")]}, tmp_path / "packed")
    (sequence,) = read_shards(tmp_path / "packed")["otb"]
    assert sequence.occluded is None and sequence.out_of_view is None and sequence.masks is None


def test_jpeg_files_are_copied_byte_for_byte_and_others_encoded(tmp_path: Path) -> None:
    copied = make_sequence(tmp_path / "copied")
    encoded = make_sequence(tmp_path / "encoded", suffix=".png")
    disguised = make_sequence(tmp_path / "disguised", suffix=".png")
    renamed = tuple(path.rename(path.with_suffix(".jpg")) for path in disguised.frames.paths)  # type: ignore[attr-defined]
    disguised = Sequence("disguised", ImageFiles(renamed), disguised.boxes_frame, disguised.absent)
    pack({"a": [copied, encoded, disguised]}, tmp_path / "packed", quality=100)
    for sequence, original in zip(
        read_shards(tmp_path / "packed")["a"], (copied, encoded, disguised), strict=True
    ):
        assert isinstance(sequence.frames, PackedFrames)
        stored = sequence.frames.ranges.read(1)
        assert stored.startswith(b"\xff\xd8\xff")
        assert (stored == (tmp_path / "copied" / "0001.jpg").read_bytes()) == (original is copied)
        # Of noise in colours, JPEG keeps the brightness.
        found, wanted = (cv2.cvtColor(each.frame(1), cv2.COLOR_RGB2GRAY) for each in (sequence, original))
        assert np.abs(found.astype(int) - wanted).mean() < 3


def test_a_picture_that_is_turned_by_its_exif_is_stored_upright(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path / "dog", 1)
    content = path.read_bytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    path.write_bytes(content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + content[2:])
    upright = Sequence("dog", UprightImages((path,)), np.array([[0, 0, 5, 5.0]]), np.array([False]))
    assert upright.frame(0).shape == (32, 24, 3)
    pack({"folder": [upright]}, tmp_path / "packed", quality=100)
    (sequence,) = read_shards(tmp_path / "packed")["folder"]
    assert sequence.frame(0).shape == (32, 24, 3)
    assert np.abs(sequence.frame(0).astype(int) - upright.frame(0)).mean() < 20


def test_larger_pictures_are_reduced_with_their_boxes_and_masks(tmp_path: Path) -> None:
    original = make_sequence(tmp_path / "a", masks=LeftHalf())
    pack({"a": [original]}, tmp_path / "half", longest_side_px=16)
    (sequence,) = read_shards(tmp_path / "half")["a"]
    assert sequence.frame(0).shape == (12, 16, 3)
    assert sequence.boxes_frame[:3].tolist() == [[0, 1, 5.25, 4], [0.5, 1, 5.75, 4], [1, 1, 6.25, 4]]
    assert sequence.masks is not None
    mask = sequence.masks.read(0)
    assert mask[:, :8].all() and not mask[:, 8:].any()
    pack({"a": [original]}, tmp_path / "same", longest_side_px=32)
    assert np.array_equal(read_shards(tmp_path / "same")["a"][0].frame(0), original.frame(0))


def test_a_box_that_vanishes_with_the_picture_leaves_the_target_absent(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path / "a", 1)
    tiny = Sequence("a", ImageFiles((path,)), np.array([[1, 1, 1.0001, 2]]), np.array([False]))
    pack({"a": [tiny]}, tmp_path / "packed", longest_side_px=8)
    assert read_shards(tmp_path / "packed")["a"][0].absent.tolist() == [True]


def test_every_so_many_frames_are_kept_and_stills_anyway(tmp_path: Path) -> None:
    video, still = (
        make_sequence(tmp_path / "video", num_frames=7),
        make_sequence(tmp_path / "still", num_frames=1),
    )
    pack({"a": [video, still]}, tmp_path / "packed", every=3)
    first, second = read_shards(tmp_path / "packed")["a"]
    assert (len(first), len(second)) == (3, 1)
    assert np.array_equal(first.boxes_frame, video.boxes_frame[::3], equal_nan=True)
    assert np.array_equal(first.frame(2), video.frame(6))
    frames = [
        json.loads(sample["json"])["frame"] for sample in samples_of(tmp_path / "packed" / "a-000000.tar")
    ]
    assert frames == [0, 3, 6, 0]


def test_a_video_is_decoded_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(30):
            picture = np.full((48, 64, 3), 8 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    frames = VideoFrames.find(tmp_path / "a.mp4")
    read: list[int] = []
    unwatched = VideoFrames.read
    monkeypatch.setattr(VideoFrames, "read", lambda self, index: read.append(index) or unwatched(self, index))
    boxes_frame = np.tile([1.0, 2, 30, 40], (30, 1))
    pack({"folder": [Sequence("a", frames, boxes_frame, np.zeros(30, bool))]}, tmp_path / "packed", every=2)
    assert read == list(range(0, 30, 2))
    (sequence,) = read_shards(tmp_path / "packed")["folder"]
    assert [round(sequence.frame(index).mean() / 16) for index in range(15)] == list(range(15))


def test_shards_can_be_packed_again_without_loss(tmp_path: Path) -> None:
    original = make_sequence(tmp_path / "a", masks=LeftHalf())
    pack({"a": [original]}, tmp_path / "once")
    pack(read_shards(tmp_path / "once"), tmp_path / "twice")
    assert np.array_equal(read_shards(tmp_path / "twice")["a"][0].frame(1), original.frame(1))
    assert (tmp_path / "once" / "a-000000.tar").read_bytes() == (
        tmp_path / "twice" / "a-000000.tar"
    ).read_bytes()


# The files


def test_the_webdataset_package_streams_a_shard(tmp_path: Path) -> None:
    first = make_sequence(tmp_path / "Jogging.1", masks=LeftHalf(), occluded=np.array([1, 0, 0, 0], bool))
    second = make_sequence(tmp_path / "a name/with: signs" / "x", num_frames=2)
    pack({"my data": [first, second]}, tmp_path / "packed")
    samples = samples_of(tmp_path / "packed" / "my_data-000000.tar")
    assert [sample["__key__"] for sample in samples] == [
        *(f"000000-Jogging.1/{frame:08d}" for frame in range(4)),
        *(f"000001-x/{frame:08d}" for frame in range(2)),
    ]
    assert samples[1]["jpg"] == (tmp_path / "Jogging.1" / "0001.jpg").read_bytes()
    mask = cv2.imdecode(np.frombuffer(samples[1]["png"], np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(mask > 0, LeftHalf().read(1))
    assert "png" not in samples[4]
    assert json.loads(samples[0]["json"]) == {
        "dataset": "my data",
        "sequence": "Jogging.1",
        "frame": 0,
        "box": [0, 2, 10.5, 8],
        "absent": False,
        "occluded": True,
        "out_of_view": None,
        "unknown": None,
        "width": 32,
        "height": 24,
    }
    gone = json.loads(samples[3]["json"])
    assert (gone["box"], gone["absent"]) == (None, True)


def test_a_sequence_lies_whole_in_one_shard_and_only_a_long_one_exceeds_the_size(tmp_path: Path) -> None:
    sequences = [
        make_sequence(tmp_path / name, num_frames)
        for name, num_frames in (("a", 2), ("b", 2), ("c", 9), ("d", 2))
    ]
    max_bytes = 16_000
    packed = pack({"a": sequences}, tmp_path / "packed", max_bytes=max_bytes)
    files = sorted((tmp_path / "packed").glob("*.tar"))
    held = [{sample["__key__"].split("/")[0] for sample in samples_of(file)} for file in files]
    assert held == [{"000000-a", "000001-b"}, {"000002-c"}, {"000003-d"}]
    assert [file.stat().st_size > max_bytes for file in files] == [False, True, False]
    assert packed.shards == 3
    for sequence, original in zip(read_shards(tmp_path / "packed")["a"], sequences, strict=True):
        assert all(
            np.array_equal(sequence.frame(index), original.frame(index)) for index in range(len(original))
        )


def test_names_that_look_alike_in_plain_letters_are_kept_apart(tmp_path: Path) -> None:
    keys = ("folder:моя", "folder:твo", "folder_моя", "folder")
    originals = {key: make_sequence(tmp_path / f"{key}{'y' * place}") for place, key in enumerate(keys)}
    pack({key: [sequence] for key, sequence in originals.items()}, tmp_path / "packed")
    packed = read_shards(tmp_path / "packed")
    assert tuple(packed) == keys
    assert (tmp_path / "packed" / "folder-000000.tar").exists()
    for key, original in originals.items():
        assert np.array_equal(packed[key][0].frame(0), original.frame(0))


def test_the_index_says_where_every_picture_lies(tmp_path: Path) -> None:
    pack(
        {"a": [make_sequence(tmp_path / name, masks=LeftHalf()) for name in "xy"]},
        tmp_path / "packed",
        max_bytes=1,
    )
    index = json.loads((tmp_path / "packed" / INDEX_NAME).read_text())
    assert index["datasets"] == {"a": ["x", "y"]}
    for line, (name, num_bytes) in zip(index["sequences"], index["shards"], strict=True):
        assert line["shard"] == name
        with tarfile.open(tmp_path / "packed" / name) as archive:
            members = archive.getmembers()
        assert num_bytes == (tmp_path / "packed" / name).stat().st_size
        for suffix, column in ((".jpg", "image"), (".png", "mask")):
            places = [[each.offset_data, each.size] for each in members if each.name.endswith(suffix)]
            assert line[column] == places


def test_the_files_are_the_same_each_time(tmp_path: Path) -> None:
    sequences = [make_sequence(tmp_path / name, 9) for name in "xy"]
    for folder in ("first", "second"):
        pack({"a": sequences}, tmp_path / folder, longest_side_px=20)
    for name in ("a-000000.tar", INDEX_NAME):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


# Object stores and workers


@pytest.fixture
def bucket() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/", recursive=True)


def test_a_request_that_fails_is_made_again_and_in_the_end_named(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class UnavailableError(Exception):
        """As of a store's own client, which is no OSError."""

    asked = 0

    def fails_twice(*_: Any, **__: Any) -> bytes:
        nonlocal asked
        asked += 1
        if asked % 3:
            raise UnavailableError("503, come again")
        return b"there"

    monkeypatch.setattr(type(bucket), "cat_file", fails_twice)
    monkeypatch.setattr(shards, "_PAUSES_S", (0.0, 0.0))
    assert shards._fetch("memory://bucket/file", 0, 5) == b"there"
    monkeypatch.setattr(shards, "_PAUSES_S", (0.0,))
    with pytest.raises(ValueError, match=r"^memory://bucket/file cannot be read: 503, come again$"):
        shards._fetch("memory://bucket/file", 0, 5)


def test_an_object_store_is_read_by_byte_range(
    tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals = [make_sequence(tmp_path / name, masks=LeftHalf()) for name in "xy"]
    pack({"a": originals, "b": originals[:1]}, tmp_path / "packed")
    bucket.put(str(tmp_path / "packed"), "/bucket/packed", recursive=True)
    datasets = read_shards("memory://bucket/packed/")
    assert {key: dataset.names for key, dataset in datasets.items()} == {"a": ("x", "y"), "b": ("x",)}
    fetched: list[int] = []
    unwatched = type(bucket).cat_file

    def watched(self: Any, path: str, start: int | None = None, end: int | None = None, **rest: Any) -> bytes:
        content = unwatched(self, path, start, end, **rest)
        fetched.append(len(content))
        return bytes(content)

    monkeypatch.setattr(type(bucket), "cat_file", watched)
    sequence = datasets["a"][1]
    assert fetched == []
    assert np.array_equal(sequence.frame(2), originals[1].frame(2))
    assert fetched == [(tmp_path / "y" / "0002.jpg").stat().st_size]
    assert incomplete_shards("memory://bucket/packed") == []


def test_a_worker_gets_an_address_and_not_the_index(tmp_path: Path) -> None:
    originals = [make_sequence(tmp_path / f"sequence{number}", 2) for number in range(50)]
    pack({"a": originals}, tmp_path / "packed")
    sequences = read_shards(tmp_path / "packed")["a"]
    sent = pickle.dumps(sequences.load)
    assert len(sent) < 500
    assert np.array_equal(pickle.loads(sent)("sequence7").frame(1), originals[7].frame(1))
    sequence = pickle.loads(pickle.dumps(sequences[3]))
    assert np.array_equal(sequence.frame(0), originals[3].frame(0))


# What goes wrong


def test_sequences_that_cannot_be_read_are_left_out_and_named(tmp_path: Path) -> None:
    good, broken = make_sequence(tmp_path / "good"), make_sequence(tmp_path / "broken")
    (tmp_path / "broken" / "0002.jpg").write_bytes(b"no image")
    mismatched = make_sequence(tmp_path / "mismatched", masks=LeftHalf())
    cv2.imwrite(str(tmp_path / "mismatched" / "0001.jpg"), np.zeros((10, 10, 3), np.uint8))
    listed = {"gone": None, "broken": broken, "good": good, "mismatched": mismatched, "good ": good}

    def load(name: str) -> Sequence:
        if listed[name] is None:
            raise ValueError(f"sequence {name} has no folder")
        return listed[name]

    steps: list[tuple[str, int, int]] = []
    packed = pack(
        {"a": LazySequences(tuple(listed), load)},
        tmp_path / "packed",
        progress=lambda *step: steps.append(step),
    )
    said = {problem.sequence: problem.sentence for problem in packed.problems}
    assert len(said) == len(packed.problems) == 4
    assert said["gone"] == "sequence gone has no folder"
    assert said["good"] == "sequence good has the name of another one"
    assert "0002.jpg cannot be read" in said["broken"]
    assert "0001.jpg must have the size of the picture" in said["mismatched"]
    assert steps[-1] == ("a", 5, 5)
    assert read_shards(tmp_path / "packed")["a"].names == ("good",)
    samples = samples_of(tmp_path / "packed" / "a-000000.tar")
    assert [sample["__key__"] for sample in samples] == [f"000002-good/{frame:08d}" for frame in range(4)]


def test_nothing_to_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing can be packed into .*there are no sequences"):
        pack({"a": []}, tmp_path / "empty")
    broken = make_sequence(tmp_path / "broken")
    (tmp_path / "broken" / "0000.jpg").unlink()
    with pytest.raises(ValueError, match=r"nothing can be packed into .*0000\.jpg is missing"):
        pack({"a": [broken]}, tmp_path / "packed")
    assert list((tmp_path / "packed").iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"max_bytes": 0}, "max_bytes must be 1 or more, got 0"),
        ({"every": 0}, "every must be 1 or more, got 0"),
        ({"longest_side_px": -1}, "longest_side_px must be 1 or more, got -1"),
        ({"quality": 101}, "quality must be from 1 to 100, got 101"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, int], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        pack({"a": []}, tmp_path / "packed", **wrong)
    assert not (tmp_path / "packed").exists()


def test_a_folder_that_holds_files_is_not_packed_into(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="must be a new or empty folder"):
        pack({"a": [make_sequence(tmp_path / "x")]}, tmp_path)


def test_an_interrupted_packing_leaves_nothing_in_the_way_of_the_next(tmp_path: Path) -> None:
    def interrupt(key: str, done: int, total: int) -> None:
        assert [*(tmp_path / "packed").iterdir()], "nothing to be cleared away"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack({"a": [make_sequence(tmp_path / "x")]}, tmp_path / "packed", progress=interrupt)
    assert not [*(tmp_path / "packed").iterdir()]
    assert pack({"a": [make_sequence(tmp_path / "y")]}, tmp_path / "packed").sequences == 1


def test_shards_without_an_index_are_told(tmp_path: Path) -> None:
    pack({"a": [make_sequence(tmp_path / "x")]}, tmp_path / "packed")
    (tmp_path / "packed" / INDEX_NAME).unlink()  # as a power cut leaves them
    assert is_packed(tmp_path / "packed")
    with pytest.raises(ValueError, match=r"holds shards but no index\.json: its packing was not finished"):
        read_shards(tmp_path / "packed")


def test_a_full_disk_leaves_nothing_and_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = [make_sequence(tmp_path / name) for name in "xy"]
    unwatched = shards.ShardFiles.add

    def until_full(self: shards.ShardFiles, name: str, content: bytes) -> tuple[int, int]:
        if name == "000001-y/00000002.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return unwatched(self, name, content)

    monkeypatch.setattr(shards.ShardFiles, "add", until_full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        pack({"a": sequences}, tmp_path / "packed")
    assert caught.value.filename == str(tmp_path / "packed")
    assert not [*(tmp_path / "packed").iterdir()]


def test_what_is_not_packed_is_refused(tmp_path: Path, bucket: Any) -> None:
    assert not is_packed(tmp_path)
    with pytest.raises(ValueError, match=r"no packed dataset in .*expected .*index\.json"):
        read_shards(tmp_path)
    with pytest.raises(ValueError, match="no packed dataset in memory://nothing"):
        read_shards("memory://nothing")
    (tmp_path / INDEX_NAME).write_text('{"of": "something else"}')
    assert not is_packed(tmp_path)
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        read_shards(tmp_path)
    with pytest.raises(ValueError, match="nosuch"):
        read_shards("nosuch://bucket")


def test_files_that_were_not_copied_whole_are_named(tmp_path: Path) -> None:
    pack({"a": [make_sequence(tmp_path / name) for name in "xyz"]}, tmp_path / "packed", max_bytes=1)
    sequences = read_shards(tmp_path / "packed")["a"]
    first, second = tmp_path / "packed" / "a-000000.tar", tmp_path / "packed" / "a-000001.tar"
    first.unlink()
    second.write_bytes(second.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"a-000000\.tar cannot be read: No such file"):
        sequences[0].frame(0)
    with pytest.raises(ValueError, match=r"a-000001\.tar ends before byte \d+: it was not copied whole"):
        sequences[1].frame(3)
    missing, short = incomplete_shards(tmp_path / "packed")
    assert missing.endswith("a-000000.tar is missing")
    assert "got 2000: it was not copied whole" in short
    index = tmp_path / "packed" / INDEX_NAME
    index.write_bytes(b"\n".join(index.read_bytes().split(b"\n")[:2]))
    with pytest.raises(ValueError, match=r"index\.json is damaged, copy it again"):
        read_shards(tmp_path / "packed")


def test_bytes_that_are_no_picture_are_named(tmp_path: Path) -> None:
    pack({"a": [make_sequence(tmp_path / "x", masks=LeftHalf())]}, tmp_path / "packed")
    (sequence,) = read_shards(tmp_path / "packed")["a"]
    shard = tmp_path / "packed" / "a-000000.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(ValueError, match=r"a-000000\.tar at byte 512 cannot be read as an image"):
        sequence.frame(0)
    assert sequence.masks is not None
    with pytest.raises(ValueError, match=r"a-000000\.tar at byte \d+ holds no mask"):
        sequence.masks.read(0)
