"""Training examples of objects that have a colour each, so that pixels tell what is where."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence as ReadOnlySequence
from typing import Any

import numpy as np
import pytest
import torch
from painted import BACKGROUND, BOX, DAYLIGHT, rectangle, still, stills, video, where, who
from torch import Tensor

from mixformerv2.data.augment import DegradeConfig
from mixformerv2.data.bank import look, read_rgbm
from mixformerv2.data.pairs import Batch, Seen, boxes_of_masks, compose
from mixformerv2.data.plan import BEHIND, OTHER, TARGET, Plan, SampleConfig
from mixformerv2.data.reading import Disk, Stream
from mixformerv2.data.sampler import Sampler
from mixformerv2.data.sequence import Sequence
from mixformerv2.data.views import Placement, ViewConfig

# Every object in the middle of its crop, 16 px a side in a search crop and in a template.
CENTRED = ViewConfig(
    search_factor=4.0,
    template_factor=2.0,
    centre_jitter=0.0,
    far_share=1.0,
    scale_jitter=0.0,
    aspect_jitter=0.0,
    rotation_deg=0.0,
)
ALONE = {"crowd_search_share": 0.0, "crowd_online_share": 0.0}
"""no second object"""


def make(
    sequences: ReadOnlySequence[Sequence],
    count: int,
    views: ViewConfig | None = None,
    degrade: DegradeConfig = DAYLIGHT,
    seed: int = 0,
    **sample: Any,
) -> tuple[Batch, Plan]:
    """Examples at 64 and 32 px."""
    sampler = Sampler({"painted": sequences}, SampleConfig(**sample), views)
    stream = Stream(sampler, count, seed, 64, 32)
    prepared = Disk(stream).prepare(0)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    return compose(prepared.plan, prepared.seen, degrade, rng, generator), prepared.plan


def examples(batch: Batch) -> Any:
    return zip(batch.template, batch.online, batch.search, strict=True)


# --- labels


def test_a_centred_object_has_the_label_computed_by_hand_and_lies_there() -> None:
    batch, _ = make(stills(4), 12, CENTRED, absent_share=0.0, **ALONE)
    # 16 px of the 64 px search crop, in its middle.
    assert batch.box_unit.tolist() == [[0.375, 0.375, 0.625, 0.625]] * 12
    assert batch.present.all()
    for template, online, search in examples(batch):
        index = who(search[32, 32])
        for crop, first, last in ((search, 24, 40), (template, 8, 24)):
            assert where(crop, index)[first + 1 : last - 1, first + 1 : last - 1].all()
            assert not where(crop, index)[first - 2].any() and not where(crop, index)[:, last + 1].any()
        # The tracker's own box is a little off.
        assert 0.4 < where(online[0], index).sum() / 16**2 < 1.8


@pytest.mark.parametrize("paste_share", [0.0, 1.0])
def test_a_template_shows_the_box_in_its_middle_at_the_share_of_the_factor(paste_share: float) -> None:
    box = (6, 14, 38, 22)  # 32 x 8 px: as large as 16 x 16
    batch, _ = make([still(0, box), still(1, box)], 4, paste_share=paste_share, absent_share=0.0, **ALONE)
    for template in batch.template:
        rows, columns = where(template, who(template[16, 16])).nonzero().unbind(1)
        # Half of 32 px for the 16 px of a square: the box is 32 x 8 px there.
        assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (12, 20, 0, 32)


def placed(sequence: Sequence, side_px: int, **changes: np.ndarray) -> Batch:
    """One example whose target is as large in the search crop as in its picture, in the middle but for `changes`."""
    plain = {
        "side_unit": np.array([20 / side_px]),
        "centre_unit": np.array([[0.5, 0.5]]),
        "rotation": np.zeros(1),
        "aspect": np.zeros(1),
        "flip": np.zeros(1, bool),
    }
    to_frame = np.zeros((1, 2, 3, 2, 3))
    to_frame[:, :, TARGET] = Placement(**plain | changes).to_frame(sequence.boxes_frame)[:, None]
    used = np.zeros((1, 2, 3), bool)
    used[:, :, TARGET] = True
    no = np.zeros((1, 2), bool)
    plan = Plan(
        np.zeros((1, 2, 3, 3), np.int64),
        to_frame,
        used,
        pasted=no,
        in_front=no,
        part_frame=np.zeros((1, 2, 4)),
        box_frame=np.zeros((1, 4)) if sequence.masks is not None else sequence.boxes_frame,
        bend_unit=np.zeros((1, 2)),
        present=np.ones(1, bool),
    )
    window = torch.from_numpy(look(read_rgbm(sequence, 0), to_frame[0, 0, TARGET], side_px))[None]
    sizes = np.broadcast_to(sequence.frame(0).shape[1::-1], (1, 2, 3, 2)).astype(np.int64)
    rng = np.random.default_rng(0)
    return compose(plan, Seen(window, window, sizes), DAYLIGHT, rng, torch.Generator())


def test_the_label_of_a_part_is_that_rectangle_of_the_object_and_its_surroundings_stay() -> None:
    batch, plan = make(stills(4), 12, CENTRED, absent_share=0.0, part_share=1.0, **ALONE)
    sides = plan.part_frame[:, 0, 2:] - plan.part_frame[:, 0, :2]
    shape = np.sqrt(sides[:, 0] / sides[:, 1])
    expected = (
        0.5 + np.stack([-shape, -1 / shape, shape, 1 / shape], axis=1) / 8
    )  # a quarter of the window's side
    np.testing.assert_allclose(batch.box_unit, expected, atol=1.01 / 64)
    for box, search in zip((batch.box_unit * 64).round().int().tolist(), batch.search, strict=True):
        shown = where(search, who(search[32, 32]))
        assert shown[box[1] + 1 : box[3] - 1, box[0] + 1 : box[2] - 1].all()
        assert shown.sum() > 1.2 * (box[2] - box[0]) * (box[3] - box[1])  # of the object there is more


@pytest.mark.parametrize("segmented", [True, False])
@pytest.mark.parametrize(
    ("changes", "box_px"),
    [
        ({}, (22, 22, 42, 42)),
        ({"side_unit": np.array([10 / 64])}, (27, 27, 37, 37)),
        ({"centre_unit": np.array([[38, 23]]) / 64}, (28, 13, 48, 33)),
        ({"centre_unit": np.array([[5, 32]]) / 64}, (0, 22, 15, 42)),  # cut off by the window
        ({"rotation": np.array([math.pi / 4])}, (32 - 14, 32 - 14, 32 + 14, 32 + 14)),
        # 1.2 times as wide, as much less high
        ({"aspect": np.array([2 * math.log(1.2)])}, (20, 32 - 10 / 1.2, 44, 32 + 10 / 1.2)),
    ],
)
def test_the_label_of_a_placed_square_by_hand(
    changes: dict[str, np.ndarray], box_px: tuple[float, float, float, float], segmented: bool
) -> None:
    batch = placed(still(0, segmented=segmented), 64, **changes)
    assert batch.present.all()
    off = 1.01 if segmented or "rotation" in changes else 1e-4
    torch.testing.assert_close(batch.box_unit[0] * 64, torch.tensor(box_px).float(), rtol=0, atol=off)


def test_a_label_is_as_tight_as_a_slow_search_for_the_mask_in_the_window() -> None:
    ellipse = np.hypot(*(np.mgrid[:40, :48] - np.array([20, 24])[:, None, None]) / [[[8]], [[15]]]) < 1
    sequence, draw = still(0, (9, 12, 40, 29), ellipse), np.random.default_rng(1)
    side_px = 96
    for _ in range(12):
        place = {
            "side_unit": draw.uniform(0.2, 0.5, 1),
            "centre_unit": 0.5 + draw.normal(0, 0.1, (1, 2)),
            "rotation": draw.normal(0, 1, 1),
            "aspect": draw.normal(0, 0.3, 1),
            "flip": draw.random(1) < 0.5,
        }
        batch = placed(sequence, side_px, **place)
        to_frame = Placement(**place).to_frame(sequence.boxes_frame)[0]
        line = (np.arange(side_px) + 0.5) / side_px
        x, y = np.moveaxis(
            np.stack([*np.meshgrid(line, line), np.ones((side_px, side_px))], axis=-1) @ to_frame.T, -1, 0
        )
        rows, columns = np.floor(y).astype(int), np.floor(x).astype(int)
        in_picture = (rows >= 0) & (rows < 40) & (columns >= 0) & (columns < 48)
        seen = np.zeros((side_px, side_px), bool)
        seen[in_picture] = ellipse[rows[in_picture], columns[in_picture]]
        ys, xs = np.nonzero(seen)
        expected = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        # A pixel of the picture is up to 1.5 px wide there, and turned has corners.
        np.testing.assert_allclose(batch.box_unit[0] * side_px, expected, atol=2)


def test_a_box_between_pixels_has_a_label_between_pixels() -> None:
    sequence = video(1)
    sequence.boxes_frame[0] = (10.25, 12.75, 30.5, 31.5)  # 20.25 x 18.75 px
    side = math.sqrt(20.25 * 18.75)
    batch = placed(sequence, 256, side_unit=np.array([160 / 256]))  # of 256 px
    half = np.array([20.25, 18.75]) / side * 80
    expected = np.concatenate([128 - half, 128 + half])
    # One px of the picture is 8 px here: rounded to whole ones, sides would be up to 4 px off.
    np.testing.assert_allclose(batch.box_unit[0] * 256, expected, atol=2.1)


def test_a_flip_mirrors_the_crop_and_with_it_the_label() -> None:
    sequence = still(0, mask=rectangle((10, 12, 30, 32)) & ~rectangle((10, 22, 20, 32)))
    plain = placed(sequence, 64, centre_unit=np.array([[37, 35]]) / 64)
    mirrored = placed(sequence, 64, centre_unit=np.array([[27, 35]]) / 64, flip=np.array([True]))
    assert torch.equal(mirrored.search, plain.search.flip(2))
    assert mirrored.box_unit[0, [2, 0]].tolist() == (1 - plain.box_unit[0, [0, 2]]).tolist()


def test_a_target_that_bends_takes_its_label_along_and_its_template_stays() -> None:
    bending = dataclasses.replace(CENTRED, bend_share=1.0, bend=0.2)
    batch, plan = make(stills(4), 24, bending, absent_share=0.0, paste_share=1.0, **ALONE)
    assert (plan.bend_unit[:, 0] == 0).all() and (plan.bend_unit[:, 1:] > 0).all()
    boxes = (batch.box_unit * 64).round().int().tolist()
    assert len({tuple(box) for box in boxes}) > 12
    for (template, _, search), (x1, y1, x2, y2) in zip(examples(batch), boxes, strict=True):
        index = who(template[16, 16])
        assert where(template, index)[9:23, 9:23].all()
        rows, columns = where(search, index).nonzero().unbind(1)
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        np.testing.assert_allclose(found, (x1, y1, x2, y2), atol=2)


def test_the_box_of_a_mask_by_hand() -> None:
    masks = torch.zeros(4, 16, 16)
    masks[0, 4:8, 2:16] = 1
    masks[1, 5:7, 2:16] = 1  # two rows are not enough
    masks[2, 4:8, 2:6] = 0.5  # half covered is not yet inside
    boxes, visible = boxes_of_masks(masks)
    assert visible.tolist() == [True, False, False, False]
    assert boxes.tolist() == [[2 / 16, 4 / 16, 1, 8 / 16]] + [[0, 0, 0, 0]] * 3


def test_the_search_box_is_where_the_templates_object_is_and_absent_ones_have_none() -> None:
    sequences = [still(i, (10 + i % 5, 8, 26 + i % 7, 22 + i % 3)) for i in range(30)]
    batch, _ = make(sequences, 200, absent_share=0.3, **ALONE)
    assert 30 < (~batch.present).sum() < 120
    for template, search, box_unit, present in zip(
        batch.template, batch.search, batch.box_unit, batch.present, strict=True
    ):
        inside = where(search, who(template[16, 16]))
        if not present:
            assert box_unit.tolist() == [0, 0, 0, 0]
            assert not inside.any()
            continue
        seen = boxes_of_masks(inside.float()[None])[0][0]
        assert (box_unit[2:] > box_unit[:2]).all() and box_unit.min() >= 0 and box_unit.max() <= 1
        torch.testing.assert_close(seen * 64, box_unit * 64, rtol=0, atol=2)


def test_a_target_moved_out_of_the_crop_is_an_absent_example() -> None:
    for sequences in (stills(10), [video(10)]):
        batch, plan = make(sequences, 40, ViewConfig(centre_jitter=6.0, far_share=1.0), absent_share=0.0)
        assert plan.present.all()
        assert 20 < (~batch.present).sum() < 40
        assert torch.equal(batch.present, batch.box_unit.any(dim=1))


# --- what is beside and behind


def test_other_objects_come_beside_before_and_behind_but_change_no_label() -> None:
    batch, plan = make(stills(30), 64, CENTRED, absent_share=0.0)
    assert batch.box_unit.tolist() == [[0.375, 0.375, 0.625, 0.625]] * 64
    hidden = torch.tensor(
        [
            int((~where(search, who(template[16, 16]))[25:39, 25:39]).sum())
            for template, search in zip(batch.template, batch.search, strict=True)
        ]
    )
    occluded = torch.from_numpy(plan.in_front[:, -1] & plan.used[:, -1, OTHER])
    assert not hidden[~occluded].any()
    assert 5 < occluded.sum() < 30 and (hidden[occluded] > 0).float().mean() > 0.7
    beside = plan.used[:, -1, OTHER] & ~plan.in_front[:, -1]
    reds = [set(search[..., 0].unique().tolist()) for search in batch.search]
    seen = [
        60 + 6 * int(number) in red for number, red in zip(plan.frames[:, -1, OTHER, 1], reds, strict=True)
    ]
    assert np.array(seen)[beside].mean() > 0.7  # some are hidden behind the target or lie outside


def test_a_pasted_object_leaves_its_own_picture_behind() -> None:
    sequences = [still(i) for i in range(2)]
    for index in range(2):
        sequences[index].frame(0)[~rectangle(BOX)] = (0, 50 + 100 * index, 0)  # a picture's own colour
    inside = dataclasses.replace(CENTRED, template_factor=1.5)
    batch, plan = make(sequences, 40, inside, absent_share=0.0, **ALONE)
    assert 5 < plan.pasted[:, 0].sum() < 35
    for pasted, template in zip(plan.pasted[:, 0], batch.template, strict=True):
        index = who(template[16, 16])
        assert (int(template[0, 0, 1]) == 50 + 100 * index) == (not pasted)


def test_beyond_the_border_is_another_picture_or_nothing() -> None:
    batch, plan = make(stills(30), 60, CENTRED, absent_share=0.0, paste_share=0.0, **ALONE)
    # The window is 80 px wide, the picture 48 x 40.
    corner = batch.search[:, 0, 0].int()
    black = (corner == 0).all(dim=1)
    assert black.tolist() == (~plan.used[:, -1, BEHIND]).tolist()
    assert 5 < black.sum() < 30
    assert batch.search[:, 32, 18].tolist() == [[*BACKGROUND]] * 60


# --- video


def test_frames_of_a_video_pair_lie_within_the_gap_and_show_the_target() -> None:
    absent = [3, 4, 11, 29]
    batch, plan = make(
        [video(30, absent)], 150, CENTRED, absent_share=0.0, max_gap_frames=4, online_templates=2
    )
    for frames, (template, online, search) in zip(plan.frames[:, :, TARGET, 2], examples(batch), strict=True):
        crops = (template, *online, search)
        assert [who(crop[len(crop) // 2, len(crop) // 2]) for crop in crops] == frames.tolist()
    assert batch.present.all()
    assert batch.box_unit.tolist() == [[0.375, 0.375, 0.625, 0.625]] * 150


def test_absent_frames_of_a_video_show_its_target_nowhere() -> None:
    batch, _ = make([video(30, [3, 4, 11, 29])], 80, absent_share=0.6, other_sequence_share=0.0)
    assert 20 < (~batch.present).sum() < 70
    for search, present in zip(batch.search, batch.present, strict=True):
        assert present or not any(where(search, index).any() for index in range(30))


# --- batches


@pytest.mark.parametrize("online_templates", [0, 1, 2])
def test_a_batch_has_the_asked_for_shapes_and_pixels_over_the_whole_range(online_templates: int) -> None:
    for sequences in (stills(20), [video(20, [4])]):
        batch, _ = make(sequences, 24, degrade=DegradeConfig(), online_templates=online_templates)
        assert batch.template.shape == (24, 32, 32, 3)
        assert batch.online.shape == (24, online_templates, 32, 32, 3)
        assert batch.search.shape == (24, 64, 64, 3)
        for crops in (batch.template, batch.search):
            assert crops.dtype == torch.uint8 and crops.is_contiguous()
            assert crops.min() < 10 and crops.max() > 245  # bytes, not fractions
        assert batch.box_unit[~batch.present].eq(0).all()
        assert (batch.box_unit[batch.present, 2:] > batch.box_unit[batch.present, :2]).all()


def test_every_crop_is_degraded_in_its_own_way_but_grey_comes_over_whole_examples() -> None:
    batch, _ = make(stills(20), 60, CENTRED, DegradeConfig(grey_share=0.3), absent_share=0.0)

    def colourless(crops: Tensor) -> Tensor:
        return (crops.amax(dim=-1) - crops.amin(dim=-1)).amax(dim=(-1, -2)) <= 1

    grey = colourless(batch.search)
    assert 5 < grey.sum() < 35
    assert torch.equal(colourless(batch.template), grey) and torch.equal(colourless(batch.online[:, 0]), grey)
    middles = [
        crops[:, size // 2, size // 2].float() for crops, size in ((batch.template, 32), (batch.search, 64))
    ]
    assert (middles[0] - middles[1]).abs().mean() > 5


def test_a_callers_half_precision_changes_nothing() -> None:
    plain, _ = make(stills(5), 8, degrade=DegradeConfig(jpeg_share=1.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again, _ = make(stills(5), 8, degrade=DegradeConfig(jpeg_share=1.0))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_batches_join_in_order() -> None:
    parts = [make(stills(20), 3)[0], make([video(20)], 2)[0]]
    joined = Batch.join(parts)
    assert torch.equal(joined.search[:3], parts[0].search)
    assert torch.equal(joined.box_unit[3:], parts[1].box_unit)
    assert len(joined.present) == 5
