"""The stream of examples: the same from any number of workers and on resuming, from memory and from disk."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pickle
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from painted import DAYLIGHT, Outlines, stills, video
from torch.utils.data import dataloader

from mixformerv2.data.loader import DataConfig, Loader
from mixformerv2.data.memory import Decoded, estimate_gigabytes
from mixformerv2.data.pairs import Batch
from mixformerv2.data.plan import SampleConfig
from mixformerv2.data.sequence import ImageFiles, LazySequences, Sequence

# torch advises against more workers than cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

CONFIG = DataConfig(SampleConfig({"clips": 1.0, "stills": 2.0}), chunk=4)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write(folder: Path, sequence: Sequence) -> Sequence:
    """The sequence as files."""
    folder.mkdir(parents=True)
    paths = tuple(folder / f"{number}.png" for number in range(len(sequence)))
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), sequence.frame(number)[..., ::-1])
    return dataclasses.replace(sequence, frames=ImageFiles(paths))


@pytest.fixture
def datasets(tmp_path: Path) -> dict[str, list[Sequence]]:
    clips = [video(6, [2]), video(9, [0, 5], first=8, name="other")]
    return {
        "clips": [write(tmp_path / f"clip{number}", clip) for number, clip in enumerate(clips)],
        "stills": [write(tmp_path / f"still{number}", one) for number, one in enumerate(stills(6))],
    }


def make(datasets: Any, config: DataConfig = CONFIG, **settings: Any) -> Loader:
    return Loader(datasets, config, **{"search_px": 64, "template_px": 32, "seed": 7} | settings)


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_templates_are_dimmed_around_their_boxes_for_a_network_that_wants_it(datasets: Any) -> None:
    views = dataclasses.replace(CONFIG.views, online_deviation=0.0, online_scale_jitter=0.0)
    sample = dataclasses.replace(CONFIG.sample, absent_share=0.0)
    config = dataclasses.replace(CONFIG, views=views, sample=sample)
    plain, marked = (
        Batch.join(list(make(datasets, config, template_surround=surround).chunks(range(4))))
        for surround in (1.0, 0.5)
    )
    assert torch.equal(plain.search, marked.search) and torch.equal(plain.box_unit, marked.box_unit)
    assert torch.equal(plain.template[:, 12:20, 12:20], marked.template[:, 12:20, 12:20])
    corners = plain.template[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert torch.equal(marked.template[:, [0, 0, -1, -1], [0, -1, 0, -1]], (corners * 0.5).round().byte())
    assert not torch.equal(plain.online, marked.online)


def test_an_online_template_marks_the_box_it_was_cut_around_wherever_the_target_lies(datasets: Any) -> None:
    views = dataclasses.replace(
        CONFIG.views, online_deviation=0.2, online_scale_jitter=0.35, online_aspect_jitter=0.25
    )
    sample = dataclasses.replace(CONFIG.sample, absent_share=0.0)
    config = dataclasses.replace(CONFIG, views=views, sample=sample)
    sizes = {"search_px": 64, "template_px": 96}
    plain, marked = (
        Batch.join(list(make(datasets, config, template_surround=surround, **sizes).chunks(range(6))))
        for surround in (1.0, 0.5)
    )
    shapes = []
    for before, after in zip(plain.online[:, 0], marked.online[:, 0], strict=True):
        bright = ((before == after) & (before > 1)).any(dim=2)
        if bright[0].any():  # nothing of the target in sight: not marked
            continue
        rows, columns = (bright.any(dim=dim).nonzero()[:, 0] for dim in (1, 0))
        low, high = (torch.stack([edge(columns), edge(rows)]) for edge in (torch.min, torch.max))
        assert ((low + high + 1) / 2 - 48).abs().max() <= 1
        width, height = (high - low + 1).tolist()
        assert abs((width * height) ** 0.5 - 48) < 1.5
        shapes.append(width / height)
    assert len(shapes) > len(plain.online) / 2 and np.std(np.log(shapes)) > 0.1


def damage(sequence: Sequence, index: int) -> str:
    """Overwrites the frame; its path."""
    path = Path(sequence.frames.place(index))
    path.write_bytes(b"no image")
    return str(path)


# --- one stream


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_stream_is_the_same_for_any_number_of_workers(
    datasets: dict[str, list[Sequence]], in_memory: bool
) -> None:
    damage(datasets["stills"][1], 0)
    loaders = [make(datasets, workers=workers, in_memory=in_memory) for workers in (0, 1, 2)]
    alone, *others = ([*loader.chunks(range(6))] for loader in loaders)
    assert len(alone) == 6 and not same(alone[0], alone[1])
    for batches in others:
        assert all(same(a, b) for a, b in zip(alone, batches, strict=True))
    assert loaders[0].skipped == loaders[1].skipped == loaders[2].skipped != {}


def test_memory_and_disk_show_the_same(datasets: dict[str, list[Sequence]]) -> None:
    memory, disk = (make(datasets, in_memory=in_memory) for in_memory in (True, False))
    for a, b in zip(memory.chunks(range(4)), disk.chunks(range(4)), strict=True):
        assert same(a, b)


@pytest.mark.parametrize("settings", [{}, {"in_memory": False}, {"in_memory": False, "workers": 2}])
def test_any_chunks_can_be_had_at_any_time_in_any_order(
    datasets: dict[str, list[Sequence]], settings: dict[str, Any]
) -> None:
    whole = [*make(datasets).chunks(range(8))]
    loader = make(datasets, **settings)
    resumed = [*loader.chunks(range(5, 8))]
    assert all(same(a, b) for a, b in zip(resumed, whole[5:], strict=True))
    # What another process of two takes, out of an endless run that is broken off.
    second = [*itertools.islice(loader.chunks(itertools.count(1, 2)), 3)]
    assert all(same(a, b) for a, b in zip(second, whole[1::2], strict=False))
    assert [same(a, b) for a, b in zip(loader.chunks([6, 0]), (whole[6], whole[0]), strict=True)] == [
        True
    ] * 2
    loader.close()


def test_another_seed_or_config_gives_another_stream(datasets: dict[str, list[Sequence]]) -> None:
    first = next(make(datasets).chunks([0]))
    assert not torch.equal(first.search, next(make(datasets, seed=8).chunks([0])).search)
    grey = dataclasses.replace(CONFIG, degrade=dataclasses.replace(DAYLIGHT, grey_share=1.0))
    search = next(make(datasets, grey).chunks([0])).search
    assert (search[..., 0].int() - search[..., 1]).abs().max() <= 1


def test_the_stream_takes_no_numbers_from_anybody_elses_generator(
    datasets: dict[str, list[Sequence]],
) -> None:
    def state() -> tuple[Any, ...]:
        return (*np.random.get_state(legacy=False)["state"].values(), torch.get_rng_state())  # noqa: NPY002

    before = state()
    loader = make(datasets, in_memory=False, workers=1)
    list(loader.chunks(range(2)))
    after = state()
    assert np.array_equal(before[0], after[0]) and torch.equal(before[-1], after[-1])


def test_what_workers_do_survives_being_sent_to_a_fresh_process(datasets: dict[str, list[Sequence]]) -> None:
    loader = make(datasets, in_memory=False)
    loader.prepare()
    work = loader._start().dataset
    sent = pickle.loads(pickle.dumps(work))
    here, there = work[3], sent[3]
    assert torch.equal(here.seen.search, there.seen.search)
    assert np.array_equal(here.plan.to_frame, there.plan.to_frame)


def test_labels_are_moved_where_there_is_a_target_and_nothing_else_is(
    datasets: dict[str, list[Sequence]],
) -> None:
    moved = dataclasses.replace(CONFIG, label_shift_px=-0.5)
    (plain,), (shifted,) = make(datasets).chunks([0]), make(datasets, moved).chunks([0])
    side = plain.search.shape[1]
    expected = plain.box_unit - 0.5 / side * plain.present[:, None]
    torch.testing.assert_close(shifted.box_unit, expected)
    assert same(shifted._replace(box_unit=plain.box_unit), plain)


def test_the_config_is_plain_json() -> None:
    plain = json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    assert plain["sample"]["weights"] == {"clips": 1.0, "stills": 2.0}
    assert plain["views"]["search_factor"] == 4.5 and plain["degrade"]["jpeg_quality"] == [20, 90]
    assert plain["chunk"] == 4


# --- files that cannot be read


@pytest.mark.parametrize("settings", [{}, {"in_memory": False}, {"in_memory": False, "workers": 1}])
def test_examples_of_unreadable_files_are_drawn_anew_and_the_files_named(
    datasets: dict[str, list[Sequence]], settings: dict[str, Any]
) -> None:
    damaged = [damage(datasets["stills"][2], 0), damage(datasets["clips"][0], 3)]
    loader = make(datasets, **settings)
    batches = [*loader.chunks(range(10))]
    assert all(len(batch.search) == 4 for batch in batches)
    assert set(loader.skipped) == set(damaged)
    # A still is drawn more often than one of six frames.
    assert loader.skipped[damaged[0]] > loader.skipped[damaged[1]] > 0


def test_more_unreadable_files_than_allowed_end_the_run(
    datasets: dict[str, list[Sequence]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixformerv2.data.loader._SKIPPED_AFTER", 20)
    path = damage(datasets["stills"][2], 0)
    loader = make(datasets, in_memory=False)
    with pytest.raises(
        ValueError, match="examples had to be drawn anew because 1 files cannot be read"
    ) as caught:
        list(loader.chunks(range(20)))
    assert "the share of 0.01 allowed" in str(caught.value) and path in str(caught.value)
    assert sum(1 for _ in make(datasets, in_memory=False, max_skipped_share=0.9).chunks(range(20))) == 20


@pytest.mark.parametrize("settings", [{}, {"in_memory": False}, {"in_memory": False, "workers": 1}])
def test_a_dataset_that_cannot_be_read_at_all_is_said_in_one_sentence(
    datasets: dict[str, list[Sequence]], settings: dict[str, Any]
) -> None:
    for sequence in datasets["stills"]:
        path = damage(sequence, 0)
    stills_only = dataclasses.replace(CONFIG, sample=SampleConfig({"stills": 1}))
    loader = make(datasets, stills_only, **settings)
    with pytest.raises(ValueError, match="50 examples in a row could not be read") as caught:
        next(loader.chunks([0]))
    assert "\n" not in str(caught.value) and str(Path(path).parent.parent) in str(caught.value)


def opened(folder: Path, name: str) -> Sequence:
    """As a reader opens sequences."""
    if name == "half":
        raise ValueError("sequence half has 2 boxes for 6 frames")
    return write_once(folder / name)


def write_once(folder: Path) -> Sequence:
    sequence = video(6, name=folder.name)
    if folder.exists():
        paths = tuple(folder / f"{number}.png" for number in range(6))
        return dataclasses.replace(sequence, frames=ImageFiles(paths))
    return write(folder, sequence)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_sequence_that_cannot_be_opened_counts_as_unreadable(tmp_path: Path, in_memory: bool) -> None:
    lazy = LazySequences(("one", "half", "two"), partial(opened, tmp_path))
    config = dataclasses.replace(CONFIG, sample=SampleConfig({"lazy": 1}))
    loader = make({"lazy": lazy}, config, in_memory=in_memory)
    list(loader.chunks(range(3)))
    assert list(loader.skipped) == ["sequence half has 2 boxes for 6 frames"]


def test_a_mask_that_does_not_fit_its_picture_counts_as_unreadable(
    datasets: dict[str, list[Sequence]],
) -> None:
    wrong = dataclasses.replace(datasets["stills"][0], masks=Outlines((np.ones((4, 4), bool),)))
    loader = make(datasets | {"stills": [wrong, *datasets["stills"][1:]]}, in_memory=False)
    list(loader.chunks(range(5)))
    assert list(loader.skipped) == [wrong.frames.place(0)]


def test_a_killed_worker_is_said_in_one_sentence_and_the_next_chunks_come_from_new_ones(
    datasets: dict[str, list[Sequence]], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(waiting, "__defaults__", (0.3,))  # s, else 5, until it looks for them
    handler = signal.getsignal(signal.SIGCHLD)
    loader = make(datasets, in_memory=False, workers=1)
    chunks = loader.chunks(itertools.count())
    first = next(chunks)
    assert loader._ahead is not None and loader._ahead._iterator is not None
    os.kill(loader._ahead._iterator._workers[0].pid, signal.SIGKILL)
    with pytest.raises(ChildProcessError, match="one of 1 data workers died, most likely for lack of memory"):
        for _ in range(20):
            next(chunks)
    assert same(next(loader.chunks([0])), first)
    assert signal.getsignal(signal.SIGCHLD) == handler
    loader.close()


# --- memory


def test_the_memory_needed_is_told_from_a_few_frames() -> None:
    datasets = {"clips": [video(50), video(100)], "stills": stills(200)}
    assert estimate_gigabytes(datasets) == pytest.approx(350 * 48 * 40 * 4 / 1e9)


def test_frames_of_which_nothing_is_known_take_no_memory() -> None:
    flags = np.arange(50) >= 20
    clip = video(50)
    boxes_frame = np.where(flags[:, None], np.nan, clip.boxes_frame)
    clip = dataclasses.replace(clip, boxes_frame=boxes_frame, absent=flags, unknown=flags)
    assert estimate_gigabytes({"clips": [clip]}) == pytest.approx(20 * 48 * 40 * 4 / 1e9)
    held = Decoded.load({"clips": [clip]}, torch.device("cpu"))
    assert (held.rows >= 0).tolist() == (~flags).tolist() and not held.unreadable


def test_frames_that_do_not_fit_into_memory_are_refused_before_they_are_decoded(
    datasets: dict[str, list[Sequence]],
) -> None:
    loader = make(datasets, max_gigabytes=1e-5)
    with pytest.raises(
        ValueError, match="clips and stills take about 0.0 GB of memory, more than the 1e-05 GB"
    ):
        loader.prepare()
    with pytest.raises(ValueError, match="--no-memory"):
        next(loader.chunks([0]))


def test_frames_are_decoded_once(datasets: dict[str, list[Sequence]]) -> None:
    loader = make(datasets)
    first = next(loader.chunks([0]))
    for sequence in (*datasets["clips"], *datasets["stills"]):
        for number in range(len(sequence)):
            damage(sequence, number)
    assert same(next(loader.chunks([0])), first) and not loader.skipped
    # By another loader too, whichever datasets it takes and in which order.
    assert same(next(make(datasets, decoded=loader.decoded).chunks([0])), first)
    turned = dataclasses.replace(CONFIG, sample=SampleConfig({"stills": 1.0}))
    stills_only = make(datasets, turned, decoded=loader.decoded)
    assert len(next(stills_only.chunks([0])).search) == 4 and not stills_only.skipped


# --- settings


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"search_px": 100}, "search_px must be a multiple of 8, the side of JPEG's blocks, got 100"),
        ({"template_px": 0}, "template_px must be a multiple of 8, the side of JPEG's blocks, got 0"),
        ({"seed": -1}, "seed and workers must not be negative, got -1 and 0"),
        ({"workers": -2}, "got 7 and -2"),
        (
            {"config": dataclasses.replace(CONFIG, sample=SampleConfig({"lasot": 1}))},
            "the dataset 'lasot', but",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make({"clips": [video(2)], "stills": stills(2)}, **settings)


def test_a_chunk_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        dataclasses.replace(CONFIG, chunk=0)
