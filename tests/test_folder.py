"""People's own data: clips with a boxes file beside them, and video files read at random."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from mixformerv2.data import video_frames
from mixformerv2.data.datasets import open_datasets
from mixformerv2.data.folder import find_clips, is_folder, read_boxes, read_folder
from mixformerv2.data.sequence import Frames
from mixformerv2.data.video_frames import VideoFrames
from mixformerv2.images import Frame
from mixformerv2.results import Result, ResultFile
from mixformerv2.video import open_source

NAN = [np.nan] * 4


def write_images(folder: Path, names: list[str]) -> None:
    """Images of 32 x 24 px, the brightness of each its place in the list."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((24, 32, 3), place, np.uint8))


def write_video(
    path: Path,
    num_frames: int = 40,
    codec: str = "libx264",
    ticks: list[int] | None = None,
    container_options: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """A texture that moves by two pixels a frame, so that every frame has its own pixels and refers to others."""
    texture = np.random.default_rng(0).integers(0, 256, (64, 64 + 2 * num_frames, 3), np.uint8)
    texture = cv2.GaussianBlur(texture, (9, 9), 3)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.gop_size = 12
        stream.codec_context.time_base = Fraction(1, 90000 if ticks else 30)
        for index in range(num_frames):
            picture = np.ascontiguousarray(texture[:, 2 * index : 2 * index + 64])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = ticks[index] if ticks else index
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_in_order(path: Path) -> list[Frame]:
    with open_source(path) as source:
        return list(source)


# Boxes files


@pytest.mark.parametrize("separator", [",", "\t", " ", ", "])
def test_rows_are_boxes_of_the_frames_in_order_counted_from_zero(tmp_path: Path, separator: str) -> None:
    rows = [
        ["0", "0", "10", "5"],
        ["2.5", "1", "7.5", "6"],
        ["nan"] * 4,
        ["3", "3", "0", "8"],
        ["1", "1", "inf", "2"],
    ]
    (tmp_path / "a.txt").write_text("\n".join(separator.join(row) for row in rows) + "\n\n")
    boxes = read_boxes(tmp_path / "a.txt")
    assert boxes.frames is None
    expected = np.array([[0, 0, 10, 5], [2.5, 1, 10, 7], NAN, NAN, NAN])
    assert np.array_equal(boxes.rows_frame, expected, equal_nan=True)


@pytest.mark.parametrize("start", ["", "\ufeff", "x,y,w,h\n", "X, Y, W, H\n"])
def test_a_table_may_have_a_header_and_a_byte_order_mark(tmp_path: Path, start: str) -> None:
    (tmp_path / "a.csv").write_text(start + "1,2,3,4\n", encoding="utf-8")
    assert read_boxes(tmp_path / "a.csv").rows_frame.tolist() == [[1, 2, 4, 6]]


def test_rows_that_name_their_frames_leave_the_others_without_a_box(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("frame,x,y,w,h\n3,1,2,3,4\n1,5,6,7,8\n")
    boxes = read_boxes(tmp_path / "a.csv").of_frames(5)
    assert np.array_equal(boxes, [NAN, [5, 6, 12, 14], NAN, [1, 2, 4, 6], NAN], equal_nan=True)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_results_file_of_track_is_taken_where_it_was_tracking(tmp_path: Path, suffix: str) -> None:
    with ResultFile.open(tmp_path / f"a{suffix}") as file:
        file.write(1, Result((1.0, 2.0, 3.0, 4.0), 0.9, "tracking"))
        file.write(2, Result((1.0, 2.0, 3.0, 4.0), 0.1, "lost"))
    boxes = read_boxes(tmp_path / f"a{suffix}").of_frames(4)
    assert np.array_equal(boxes, [NAN, [1, 2, 4, 6], NAN, NAN], equal_nan=True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1,2,3,4\n1,2,3\n", r"a\.txt line 2 must be x,y,w,h, got '1,2,3'"),
        ("\n1,2,3,x\n", r"a\.txt line 2 must be x,y,w,h, got '1,2,3,x'"),
        ("1,1,5,1,5,5,1,5\n", r"a\.txt line 1 must be x,y,w,h"),
        (
            "1,2,3,4\n1,2,-3,4\n",
            r"a\.txt line 2 must have a width and height of 0, where there is no target, or",
        ),
        ("frame,x,y,w,h\n1,2,3,4\n", r"a\.txt line 2 must be frame,x,y,w,h"),
        ("frame,x,y,w,h\n1,1,2,3,4\n1,1,2,3,4\n", "must give each frame once, counted from 0"),
        ("frame,x,y,w,h\n-1,1,2,3,4\n", "must give each frame once, counted from 0"),
        ("frame,x,y,w,h\n0.5,1,2,3,4\n", "must number its frames with whole numbers"),
        ("frame,x,y,w,h\nnan,1,2,3,4\n", "must number its frames with whole numbers"),
        ("0.1,0.2,0.3,0.4\nnan,nan,nan,nan\n", "boxes in pixels, got fractions: no edge lies beyond 0.6"),
    ],
)
def test_a_boxes_file_that_is_wrong_is_refused_in_one_sentence(
    tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read_boxes(tmp_path / "a.txt")


# Folders


def test_of_frames_that_a_tracker_lost_or_nobody_names_nothing_is_known(tmp_path: Path) -> None:
    write_images(tmp_path / "followed", [f"{number}.png" for number in range(3)])
    results = "frame,x,y,w,h,score,state\n0,1,1,5,5,1,tracking\n1,0,0,0,0,0.1,lost\n"
    (tmp_path / "followed.csv").write_text(results)
    write_images(tmp_path / "named", [f"{number}.png" for number in range(3)])
    (tmp_path / "named.csv").write_text("frame,x,y,w,h\n0,1,1,5,5\n1,0,0,0,0\n")
    followed, named = read_folder(tmp_path)
    assert followed.absent.tolist() == named.absent.tolist() == [False, True, True]
    assert followed.lacking.tolist() == [False, False, False]
    assert named.lacking.tolist() == [False, True, False]


def test_images_are_in_natural_order_and_their_boxes_inside_or_beside_the_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "dog", ["frame_2.png", "frame_10.png", "frame_11.png"])
    (tmp_path / "dog" / "._frame_2.png").write_bytes(b"a Mac leaves these")
    (tmp_path / "dog" / "groundtruth_rect.txt").write_text("1,1,5,5\n2,1,5,5\n0,0,0,0\n")
    write_images(tmp_path / "cat", ["1.jpg"])
    (tmp_path / "cat.jsonl").write_text('{"frame":0,"x":1,"y":1,"w":5,"h":5,"score":1,"state":"tracking"}\n')
    sequences = read_folder(tmp_path)
    assert sequences.names == ("cat", "dog")
    dog = sequences[1]
    assert [Path(dog.frames.place(index)).name for index in range(3)] == [
        "frame_2.png",
        "frame_10.png",
        "frame_11.png",
    ]
    assert [int(dog.frame(index)[0, 0, 0]) for index in range(3)] == [0, 1, 2]
    assert dog.absent.tolist() == [False, False, True]
    assert sequences[0].boxes_frame.tolist() == [[1, 1, 6, 6]]
    assert isinstance(dog.frames, Frames)
    assert len(pickle.loads(pickle.dumps(sequences))[1]) == 3


def test_a_video_goes_with_the_boxes_of_the_same_stem(tmp_path: Path) -> None:
    write_video(tmp_path / "dog.2.mp4", num_frames=5)
    (tmp_path / "dog.2.txt").write_text("1,1,5,5\n" * 5)
    write_video(tmp_path / "without.mp4", num_frames=2)
    (tmp_path / "poster.jpg").touch()
    (tmp_path / "notes.txt").write_text("no boxes of anything")
    sequences = read_folder(tmp_path)
    assert sequences.names == ("dog.2",)
    expected = read_in_order(tmp_path / "dog.2.mp4")
    assert all(np.array_equal(sequences[0].frame(index), expected[index]) for index in range(5))
    assert list(find_clips(tmp_path)) == ["dog.2", "without"]


def test_the_folder_itself_may_be_one_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "dog", ["1.jpg", "2.jpg"])
    assert not is_folder(tmp_path / "dog")
    (tmp_path / "dog" / "boxes.csv").write_text("1,1,5,5\n2,1,5,5\n")
    monkeypatch.chdir(tmp_path / "dog")
    for root in (tmp_path / "dog", Path()):
        (sequence,) = read_folder(root)
        assert (sequence.name, len(sequence)) == ("dog", 2)
    write_video(tmp_path / "cat" / "VID_0001.mp4", num_frames=2) if (
        tmp_path / "cat"
    ).mkdir() is None else None
    (tmp_path / "cat" / "boxes.txt").write_text("1,1,5,5\n2,1,5,5\n")
    assert [sequence.name for sequence in read_folder(tmp_path / "cat")] == ["cat"]
    assert read_folder(tmp_path).names == ("cat", "dog")


def test_pictures_are_turned_upright_as_tracking_sees_them(tmp_path: Path) -> None:
    write_images(tmp_path / "dog", ["1.jpg"])
    content = (tmp_path / "dog" / "1.jpg").read_bytes()
    # EXIF with one entry, orientation 6: the camera was held upright.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (tmp_path / "dog" / "1.jpg").write_bytes(content[:2] + segment + content[2:])
    (tmp_path / "dog" / "boxes.txt").write_text("1,1,5,5\n")
    (sequence,) = read_folder(tmp_path)
    assert sequence.frame(0).shape == (32, 24, 3)
    assert np.array_equal(sequence.frame(0), read_in_order(tmp_path / "dog")[0])


def test_clips_that_do_not_fit_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no clips with boxes in .*expected clips/dog\.mp4 with"):
        read_folder(tmp_path)
    write_images(tmp_path / "dog", ["1.jpg", "2.jpg"])
    (tmp_path / "dog" / "boxes.txt").write_text("1,1,5,5\n")
    with pytest.raises(ValueError, match="sequence dog has 1 boxes for 2 frames"):
        read_folder(tmp_path)[0]
    (tmp_path / "dog" / "boxes.txt").write_text("frame,x,y,w,h\n2,1,1,5,5\n")
    with pytest.raises(ValueError, match=r"boxes\.txt has a box for frame 2, but .*dog has 2 frames"):
        read_folder(tmp_path)[0]
    (tmp_path / "dog" / "groundtruth.txt").write_text("1,1,5,5\n")
    with pytest.raises(
        ValueError, match=r"sequence dog must have one boxes file, got .* and .*groundtruth\.txt"
    ):
        read_folder(tmp_path)[0]
    (tmp_path / "cat.mp4").write_bytes(b"not a video")
    (tmp_path / "cat.txt").write_text("1,1,5,5\n")
    with pytest.raises(ValueError, match=r"cat\.mp4 is not a video that can be read"):
        read_folder(tmp_path)[0]


def test_an_unreadable_or_missing_image_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "dog", ["1.jpg", "2.jpg"])
    (tmp_path / "dog" / "boxes.txt").write_text("1,1,5,5\n" * 2)
    (sequence,) = read_folder(tmp_path)
    (tmp_path / "dog" / "1.jpg").write_bytes(b"")
    (tmp_path / "dog" / "2.jpg").unlink()
    for index in range(2):
        with pytest.raises(ValueError, match=rf"{index + 1}\.jpg"):
            sequence.frame(index)


def test_a_sequence_of_got10k_is_no_plain_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "GOT-10k_Train_000001", ["00000001.jpg"])
    (tmp_path / "GOT-10k_Train_000001" / "groundtruth.txt").write_text("1,1,5,5\n")
    assert is_folder(tmp_path)
    (tmp_path / "GOT-10k_Train_000001" / "absence.label").write_text("1\n")
    assert not is_folder(tmp_path)


# Video files


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("b_frames.mp4", "libx264", {"bf": "3"}),
        ("open_gop.mkv", "libx264", {"x264-params": "bframes=4:b-pyramid=normal:open-gop=1:keyint=12"}),
        ("every_other_key.mp4", "libx264", {"x264-params": "bframes=3:keyint=2"}),
        ("refresh.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=12"}),
        ("stream.ts", "mpeg2video", {"bf": "2"}),
        ("old.avi", "mpeg4", {"bf": "2"}),
        ("hidden_frames.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    ],
)
@pytest.mark.parametrize("expected", [None, 40])
def test_frames_at_random_are_those_of_reading_in_order(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], expected: int | None
) -> None:
    path = write_video(tmp_path / name, codec=codec, **options)
    in_order = read_in_order(path)
    frames = VideoFrames.find(path, expected)
    assert len(frames) == len(in_order) == 40
    for index in (*np.random.default_rng(1).integers(0, 40, 25).tolist(), 39, 0, -1):
        assert np.array_equal(frames.read(index), in_order[index]), index


def test_frames_of_varying_duration_are_told_apart(tmp_path: Path) -> None:
    ticks = np.cumsum(np.random.default_rng(0).integers(500, 9000, 40)).tolist()
    path = write_video(tmp_path / "a.mp4", ticks=ticks, bf="3")
    in_order = read_in_order(path)
    frames = VideoFrames.find(path)
    assert len(frames) == 40
    assert all(np.array_equal(frames.read(index), in_order[index]) for index in (30, 3, 25, 26, 13, 12, 11))


def test_frames_are_counted_where_the_header_says_nothing(tmp_path: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov"}
    path = write_video(tmp_path / "a.mp4", container_options=options, bf="3")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    assert len(VideoFrames.find(path)) == 40


def test_a_damaged_video_has_the_frames_that_tracking_gets(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", bf="0", crf="1")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 300] = bytes(300)
    path.write_bytes(content)
    in_order = read_in_order(path)
    frames = VideoFrames.find(path)
    assert 20 < len(in_order) < 40
    assert len(frames) == len(in_order)
    assert all(np.array_equal(frames.read(index), in_order[index]) for index in (len(frames) - 1, 2, 20, 18))


def test_a_video_cut_off_after_it_was_counted_names_the_frame_that_is_gone(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", bf="0")
    frames = VideoFrames.find(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"frame 39 of .*a\.mkv cannot be decoded: \d+ frames can"):
        frames.read(39)


def test_reading_on_does_not_seek_or_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = VideoFrames.find(write_video(tmp_path / "a.mp4", bf="3"))
    frames.read(0)

    def refuse(*_: object) -> None:
        raise AssertionError("a frame that follows was sought")

    monkeypatch.setattr(video_frames._Decoder, "_seek", refuse)
    monkeypatch.setattr(video_frames._Decoder, "_start_over", refuse)
    for index in (*range(1, 20), 19, 18, 17, *range(20, 40)):  # the last few are kept
        frames.read(index)


def test_threads_that_read_many_videos_leave_each_other_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than a thread keeps open."""
    videos = [
        VideoFrames.find(write_video(tmp_path / f"{number}.mp4"))
        for number in range(2 * video_frames.OPEN_VIDEOS)
    ]
    opened: list[Path] = []
    started = video_frames._Decoder._start

    def noted(decoder: video_frames._Decoder) -> None:
        opened.append(decoder.path)
        started(decoder)

    monkeypatch.setattr(video_frames._Decoder, "_start", noted)
    together = threading.Barrier(len(videos))

    def read_all(video: VideoFrames) -> None:
        for index in range(len(video)):
            together.wait()  # else one may be done before the next begins
            video.read(index)

    with ThreadPoolExecutor(len(videos)) as pool:
        list(pool.map(read_all, videos))
    assert sorted(opened) == sorted(video.path for video in videos)


def test_drawing_on_a_frame_leaves_the_kept_one_alone(tmp_path: Path) -> None:
    frames = VideoFrames.find(write_video(tmp_path / "a.mp4", num_frames=3))
    first = frames.read(1)
    untouched = first.copy()
    first[:] = 0
    assert np.array_equal(frames.read(1), untouched)


def test_few_videos_are_open_at_a_time(tmp_path: Path) -> None:
    path = write_video(tmp_path / "0.mp4", num_frames=3)
    clips = []
    for number in range(video_frames.OPEN_VIDEOS + 3):
        (tmp_path / f"{number}.mp4").write_bytes(path.read_bytes())
        clips.append(VideoFrames.find(tmp_path / f"{number}.mp4"))
    first = [clip.read(1) for clip in clips]
    assert (
        len(video_frames._videos_of(os.getpid(), threading.get_ident())._decoders) == video_frames.OPEN_VIDEOS
    )
    assert all(np.array_equal(clip.read(1), frame) for clip, frame in zip(clips, first, strict=True))


def _read_sum(frames: VideoFrames, index: int) -> int:
    return int(frames.read(index).sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_process_reads_the_same_frames(tmp_path: Path, method: str) -> None:
    frames = VideoFrames.find(write_video(tmp_path / "a.mp4", bf="3"))
    expected = [_read_sum(frames, index) for index in (7, 33)]
    with multiprocessing.get_context(method).Pool(1) as pool:
        found = pool.starmap_async(_read_sum, [(frames, 7), (frames, 33)]).get(timeout=60)
    assert found == expected
    assert [_read_sum(frames, index) for index in (7, 33)] == expected


@pytest.mark.parametrize("index", [40, -41])
def test_an_index_outside_the_video_is_refused(tmp_path: Path, index: int) -> None:
    frames = VideoFrames.find(write_video(tmp_path / "a.mp4"))
    with pytest.raises(IndexError):
        frames.read(index)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the video file .*none\.mp4 is missing"):
        VideoFrames.find(tmp_path / "none.mp4")
    path = write_video(tmp_path / "a.mp4", container_options={"movflags": "+faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 8])
    with pytest.raises(ValueError, match=r"a\.mp4 has no frame that can be decoded"):
        VideoFrames.find(path)


def test_a_real_clip_gives_the_frames_that_decoding_in_order_gives() -> None:
    path = Path(__file__).parents[2] / "shared" / "data" / "clips" / "sam2_01_dog.mp4"
    if not path.is_file():
        pytest.skip("the development data, ../shared/data, is not here")
    in_order = read_in_order(path)
    frames = VideoFrames.find(path, 289)
    assert len(frames) == len(in_order) == 289
    for index in (200, 17, 288, 251, 250, 249):
        assert np.array_equal(frames.read(index), in_order[index]), index


def test_a_table_beside_a_folder_of_one_video_is_not_its_boxes(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    write_video(clips / "street.mp4")
    (tmp_path / "clips.csv").write_text("clip,frame,x,y,w,h,name\nstreet,0,1,2,3,4,car\n")
    assert list(find_clips(clips)) == ["street"]
    (clips / "boxes.txt").write_text("1,2,3,4\n" * 3)
    assert list(find_clips(clips)) == ["clips"]


def test_boxes_named_as_in_otb_beside_their_images_are_a_clip_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "clips" / "dog").mkdir(parents=True)
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / "clips" / "dog" / f"{number:04d}.jpg"), np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "clips" / "dog" / "groundtruth_rect.txt").write_text("1,2,8,6\n2,3,8,6\n")
    datasets = open_datasets(tmp_path / "clips")
    assert list(datasets) == ["folder"]
    assert datasets["folder"][0].boxes_frame[0].tolist() == [1, 2, 9, 8]
