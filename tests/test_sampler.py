"""Which frames make an example, counted over many draws, and where they lie in its windows, by hand."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from painted import BOX, still, stills, video

from mixformerv2.data.plan import BEHIND, OTHER, TARGET, Plan, SampleConfig
from mixformerv2.data.sampler import Sampler
from mixformerv2.data.sequence import LazySequences, Sequence
from mixformerv2.data.views import (
    MAX_BEND_UNIT,
    Placement,
    ViewConfig,
    part_to_frame,
    place_online,
    place_search,
    place_template,
    random_parts,
)
from mixformerv2.train.recipes import base, small

ALWAYS_PRESENT = SampleConfig({"videos": 1.0}, absent_share=0.0)


def draw(
    sequences: list[Sequence], count: int, config: SampleConfig = ALWAYS_PRESENT, seed: int = 0, **views: Any
) -> Plan:
    sampler = Sampler({"videos": sequences}, config, ViewConfig(**views))
    return sampler.draw(count, np.random.default_rng(seed))


def targets(plan: Plan) -> np.ndarray:
    """Frame numbers, (examples, scenes)."""
    return plan.frames[:, :, TARGET, 2]


# --- which datasets and sequences


def test_sequences_held_out_are_in_no_scene_and_leave_the_others_as_they_are() -> None:
    sequences = [dataclasses.replace(each, name=f"s{number}") for number, each in enumerate(stills(5))]
    config = dataclasses.replace(ALWAYS_PRESENT, held_out=("s1", "s3"), absent_share=0.4)
    plan = draw(sequences, 400, config)
    drawn = plan.frames[..., 1]
    assert set(drawn[drawn >= 0].tolist()) == {0, 2, 4}
    assert len(draw(sequences, 1, dataclasses.replace(config, held_out=()))) == len(plan)
    with pytest.raises(ValueError, match="'videos' have no frame with a target"):
        draw(sequences, 1, dataclasses.replace(config, held_out=tuple(each.name for each in sequences)))


def test_another_target_of_a_video_that_is_held_out_is_held_out_too() -> None:
    sequences = stills(4)
    sequences[3] = dataclasses.replace(sequences[3], source=sequences[0].known_by)
    plan = draw(sequences, 200, dataclasses.replace(ALWAYS_PRESENT, held_out=(sequences[0].name,)))
    drawn = plan.frames[..., 1]
    assert set(drawn[drawn >= 0].tolist()) == {1, 2}


def test_datasets_are_drawn_by_weight_and_their_sequences_evenly() -> None:
    datasets = {"many": stills(10), "few": stills(3), "unused": stills(2)}
    config = SampleConfig({"many": 3, "few": 1, "unused": 0, "missing": 0})
    plan = Sampler(datasets, config).draw(4000, np.random.default_rng(0))
    dataset, sequence = plan.frames[:, 0, TARGET, :2].T
    assert abs((dataset == 0).mean() - 0.75) < 0.03 and set(dataset) == {0, 1}
    for number, length in ((0, 10), (1, 3)):
        counts = Counter(sequence[dataset == number].tolist())
        assert set(counts) == set(range(length))
        assert max(counts.values()) < 1.3 * min(counts.values())


def test_without_weights_all_datasets_count_the_same() -> None:
    sampler = Sampler({"many": stills(9), "few": stills(2)}, SampleConfig())
    dataset = sampler.draw(2000, np.random.default_rng(0)).frames[:, 0, TARGET, 0]
    assert abs(dataset.mean() - 0.5) < 0.04


def test_a_dataset_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="the dataset 'lasot', but the datasets are 'coco', 'got10k'"):
        Sampler({"coco": stills(1), "got10k": stills(1)}, SampleConfig({"coco": 1, "lasot": 1}))
    with pytest.raises(ValueError, match="the datasets are none"):
        Sampler({}, SampleConfig({"coco": 1}))
    with pytest.raises(ValueError, match="at least one dataset to draw from, got none"):
        Sampler({}, SampleConfig())
    with pytest.raises(ValueError, match="the dataset 'coco' has no sequences"):
        Sampler({"coco": []}, SampleConfig({"coco": 1}))


def test_sequences_without_a_frame_to_take_are_never_taken() -> None:
    tiny = still(1, (5, 5, 8, 15))  # 5.5 px a side
    plan = draw([video(4, absent=range(4)), tiny, still(2), still(3)], 200)
    assert set(plan.frames[:, :, TARGET, 1].ravel()) == {2, 3}
    with pytest.raises(ValueError, match="'videos' have no frame with a target of at least 6 px a side"):
        draw([tiny], 1)


def test_a_sequence_that_cannot_be_opened_is_passed_over_and_counted() -> None:
    def load(name: str) -> Sequence:
        if name == "1":
            raise ValueError("sequence 1 has 3 boxes for 4 frames")
        return still(int(name))

    sampler = Sampler({"videos": LazySequences(("0", "1", "2"), load)}, ALWAYS_PRESENT)
    plan = sampler.draw(60, np.random.default_rng(0))
    assert set(plan.frames[:, :, TARGET, 1].ravel()) == {0, 2}
    assert list(sampler.broken) == ["sequence 1 has 3 boxes for 4 frames"]
    assert sampler.broken.total() > 10


def test_sequences_are_opened_when_drawn_and_only_so_many_are_kept() -> None:
    opened: list[str] = []

    def load(name: str) -> Sequence:
        opened.append(name)
        return still(int(name))

    lazy = LazySequences(tuple(str(number) for number in range(1000)), load)
    sampler = Sampler({"videos": lazy}, ALWAYS_PRESENT)
    assert not opened
    plan = sampler.draw(5, np.random.default_rng(0))
    assert len(opened) < 30
    scarce = Sampler({"videos": lazy}, ALWAYS_PRESENT, keep=1)
    again = scarce.draw(5, np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip(plan, again, strict=True))
    assert len(scarce._kept) == 1


def test_the_same_generator_gives_the_same_plan_and_another_one_another() -> None:
    sequences = [video(20, absent=[4, 5]), *stills(5)]
    first, again, other = (draw(sequences, 30, SampleConfig({"videos": 1}), seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.to_frame, other.to_frame)


# --- which frames


def test_of_a_still_every_view_is_the_one_frame() -> None:
    plan = draw(stills(3), 20, dataclasses.replace(ALWAYS_PRESENT, online_templates=2))
    assert (targets(plan) == 0).all()
    assert (plan.frames[:, :, TARGET, 1] == plan.frames[:, :1, TARGET, 1]).all()
    assert plan.present.all()


def test_frames_lie_within_the_gap_in_any_order_and_show_the_target() -> None:
    absent = [3, 4, 11, 29]
    config = dataclasses.replace(ALWAYS_PRESENT, max_gap_frames=4, online_templates=2)
    frames = targets(draw([video(30, absent)], 600, config))
    assert set((frames[:, 1:] - frames[:, :1]).ravel()) == set(range(-4, 5))
    assert set(frames.ravel()) == set(range(30)) - set(absent)


def test_in_causal_mode_templates_come_before_the_search_frame() -> None:
    config = dataclasses.replace(ALWAYS_PRESENT, max_gap_frames=4, online_templates=2, mode="causal")
    frames = targets(draw([video(30, [3, 4])], 600, config))
    assert (np.diff(frames, axis=1) >= 0).all()
    assert set(frames[:, -1] - frames[:, 0]) == set(range(5))
    assert set(frames.ravel()) == set(range(30)) - {3, 4}


def test_a_gap_of_zero_takes_one_frame_for_all() -> None:
    frames = targets(draw([video(30)], 50, dataclasses.replace(ALWAYS_PRESENT, max_gap_frames=0)))
    assert (frames == frames[:, :1]).all() and len(set(frames[:, 0])) > 10


# --- examples without the target


@pytest.mark.parametrize("mode", ["symmetric", "causal"])
def test_absent_frames_of_the_sequence_are_seen_where_the_target_was_last(mode: str) -> None:
    sequence = video(40, absent=[20, 21, 35])
    boxes = sequence.boxes_frame
    boxes[:20, 0::2] += 3  # until it vanishes, 3 px further right
    config = SampleConfig(
        {"videos": 1}, mode=mode, absent_share=0.5, other_sequence_share=0.0, max_gap_frames=6
    )
    plan = draw([sequence], 800, config, centre_jitter=0, near_deviation=0, far_share=1)
    frames = targets(plan)
    absent = np.isin(frames[:, -1], [20, 21, 35])
    assert 0.4 < absent.mean() < 0.6
    assert (absent == ~plan.present).all()
    assert not np.isin(frames[:, :-1], [20, 21, 35]).any()
    gaps = frames[absent, -1] - frames[absent, 0]
    assert gaps.max() <= 6 and gaps.min() >= (0 if mode == "causal" else -6)
    if mode == "causal":
        assert (frames[absent, 1] <= frames[absent, -1]).all()
    middle = plan.to_frame[:, -1, TARGET] @ [0.5, 0.5, 1]
    for frame, expected in ((20, (23, 22)), (21, (23, 22)), (35, (20, 22))):
        np.testing.assert_allclose(middle[frames[:, -1] == frame] - expected, 0, atol=1e-9)


def test_negatives_from_other_sequences_show_no_picture_of_the_targets() -> None:
    # Objects 0 and 1 are in one picture, 2 and 3 in another.
    sequences = [still(index, place=f"picture {index // 2}") for index in range(6)]
    plan = draw(sequences, 1000, SampleConfig({"videos": 1}, absent_share=0.3))
    own, shown = plan.frames[:, 0, TARGET, 1], plan.frames[:, -1, TARGET, 1]
    assert abs((~plan.present).mean() - 0.3) < 0.05
    assert (own == shown)[plan.present].all()
    assert (own // 2 != shown // 2)[~plan.present].all()
    for layer in (OTHER, BEHIND):
        used = plan.used[..., layer]
        assert used.any()
        assert (plan.frames[:, :, layer, 1] // 2 != own[:, None] // 2)[used].all()


def test_the_share_of_other_sequences_counts_only_where_there_is_a_choice() -> None:
    sequences = [video(20, absent=[3, 9], name="with"), video(20, name="without")]
    config = SampleConfig({"videos": 1}, absent_share=0.5, other_sequence_share=0.25)
    plan = draw(sequences, 2000, config)
    own, shown = plan.frames[~plan.present, 0, TARGET, 1], plan.frames[~plan.present, -1, TARGET, 1]
    assert abs((shown != own)[own == 0].mean() - 0.25) < 0.06
    assert (shown != own)[own == 1].all()


def test_frames_that_nobody_annotated_are_no_negatives() -> None:
    sequences = [video(20, absent=range(1, 20), name="first box only"), video(20, name="whole")]
    plan = draw(sequences, 300, SampleConfig({"videos": 1}, absent_share=0.5, other_sequence_share=0.0))
    assert (plan.frames[:, -1, TARGET, 1] != plan.frames[:, 0, TARGET, 1])[~plan.present].all()
    assert set(targets(plan)[plan.frames[:, :, TARGET, 1] == 0]) == {0}


def test_frames_of_which_nothing_is_known_are_in_no_example() -> None:
    unknown = np.isin(np.arange(20), [5, 6, 7])
    sequence = dataclasses.replace(video(20, absent=[5, 6, 7, 8]), unknown=unknown)
    config = SampleConfig({"videos": 1}, absent_share=0.5, other_sequence_share=0.0)
    plan = draw([sequence], 300, config)
    assert set(targets(plan).ravel()) == set(range(20)) - {5, 6, 7}
    assert set(plan.frames[~plan.present, -1, TARGET, 2].tolist()) == {8}


def test_a_single_still_gives_examples_with_its_target_alone() -> None:
    plan = draw([still(0)], 50, SampleConfig({"videos": 1}, absent_share=0.5))
    assert plan.present.all()
    assert not plan.used[..., [OTHER, BEHIND]].any() and not plan.pasted.any()


def test_negatives_come_from_another_dataset_where_one_has_a_single_sequence() -> None:
    datasets = {"one": [video(9)], "two": [video(9, name="2"), video(9, name="3")]}
    config = SampleConfig({"one": 1, "two": 1e-3}, absent_share=0.5)
    plan = Sampler(datasets, config).draw(100, np.random.default_rng(0))
    assert (~plan.present).sum() > 10


# --- layers


def test_segmented_objects_are_moved_and_joined_as_often_as_asked() -> None:
    config = SampleConfig({"videos": 1}, crowd_online_share=0.2, crowd_search_share=0.8, occluder_share=0.4)
    plan = draw(stills(50), 4000, config)
    shares = plan.used[..., OTHER].mean(axis=0)
    np.testing.assert_allclose(shares, [0, 0.2, 0.8], atol=0.03)
    assert (plan.pasted == plan.pasted[:, :1]).all() and abs(plan.pasted.mean() - 0.6) < 0.03
    assert plan.used[..., BEHIND][plan.pasted].all()
    assert abs(plan.used[..., BEHIND][~plan.pasted].mean() - 0.75) < 0.03
    assert abs(plan.in_front.mean() - 0.4) < 0.03
    steps = (plan.frames[:, -1, OTHER, 1] - plan.frames[:, -1, TARGET, 1]) % 50
    # Half of them among the next twelve, where a quarter of the others fall too.
    assert abs(((steps >= 1) & (steps <= 12)).mean() - (0.5 + 0.5 * 12 / 49)) < 0.05


def test_a_part_is_a_rectangle_of_the_object_upright_and_the_same_in_every_view() -> None:
    config = SampleConfig({"videos": 1}, absent_share=0.1, part_share=0.5)
    plan = draw(stills(30), 3000, config)
    is_part = plan.part_frame[:, 0, 2] > 0
    assert abs(is_part[plan.present].mean() - 0.5) < 0.03 and not is_part[~plan.present].any()
    parts = plan.part_frame[is_part]
    assert (parts == parts[:, :1]).all() and not plan.part_frame[~is_part].any()
    corner, sides = parts[:, 0, :2], parts[:, 0, 2:] - parts[:, 0, :2]
    assert (corner >= BOX[:2]).all() and (corner + sides <= np.add(BOX[2:], 1e-9)).all()
    assert 5 <= sides.min() < 5.1 and 19.8 < sides.max() <= 20  # a quarter of the object and more
    middle = plan.to_frame[is_part, 0, TARGET] @ [0.5, 0.5, 1]
    np.testing.assert_allclose(middle, corner + sides / 2)
    turn = plan.to_frame[is_part, :, TARGET, :, :2]
    assert not turn[..., 0, 1].any() and not turn[..., 1, 0].any()
    # It is where the object is, which may have another beside it.
    assert not plan.pasted[is_part].any() and plan.used[is_part, -1, OTHER].any()


def test_what_moves_has_no_parts() -> None:
    sampler = Sampler({"videos": [video(5)]}, SampleConfig(part_share=1.0))
    assert not sampler.draw(50, np.random.default_rng(0)).part_frame.any()


def test_a_target_with_a_box_only_stays_upright_and_alone_in_its_picture() -> None:
    sequences = [video(5, name=str(index)) for index in range(4)]
    plan = draw(sequences, 200, SampleConfig({"videos": 1}))
    assert not plan.used[..., [OTHER, BEHIND]].any() and not plan.pasted.any()
    turn = plan.to_frame[:, :, TARGET, :, :2]
    assert (turn[..., 0, 1] == 0).all() and (turn[..., 1, 0] == 0).all()
    assert plan.used[..., TARGET].all()


# --- where they lie


def test_segmented_targets_bend_as_often_and_as_far_as_asked_in_all_views_but_the_template() -> None:
    plan = draw(stills(10), 2000, bend_share=0.4, bend=0.05, online_scale_jitter=0.0, scale_jitter=0.0)
    template, online, search = plan.bend_unit.T
    assert (template == 0).all()
    for drawn, side_unit in ((online, 1 / 2), (search, 1 / 4.5)):
        assert abs((drawn > 0).mean() - 0.4) < 0.04
        relative = drawn[drawn > 0] / side_unit
        assert relative.max() <= 0.05 and abs(relative.mean() - 0.025) < 0.002
    largest = draw(stills(10), 300, bend_share=1.0, bend=5.0).bend_unit[:, 1:]
    assert largest.max() == MAX_BEND_UNIT  # a surface that is shifted further folds


def test_what_has_no_outline_does_not_bend() -> None:
    for sequences, config in (
        ([video(5)], ALWAYS_PRESENT),
        (stills(5), dataclasses.replace(ALWAYS_PRESENT, part_share=1.0)),
    ):
        assert not draw(sequences, 50, config, bend_share=1.0).bend_unit.any()


def placement(**changes: Any) -> Placement:
    """A target of a quarter of the window in its middle, but for `changes`."""
    plain = {
        "side_unit": np.array([0.25]),
        "centre_unit": np.array([[0.5, 0.5]]),
        "rotation": np.zeros(1),
        "aspect": np.zeros(1),
        "flip": np.zeros(1, bool),
    }
    return Placement(**plain | changes)


BOXES = np.array([BOX], np.float64)  # 20 px around (20, 22)


@pytest.mark.parametrize(
    ("changes", "left_top", "right_top"),
    [
        ({}, (-20, -18), (60, -18)),  # 80 px wide
        ({"side_unit": np.array([0.5])}, (0, 2), (40, 2)),
        ({"centre_unit": np.array([[0.25, 0.75]])}, (0, -38), (80, -38)),
        ({"flip": np.array([True])}, (60, -18), (-20, -18)),
        ({"rotation": np.array([math.pi / 2])}, (60, -18), (60, 62)),
        # Twice as wide as high: the window shows 80 / sqrt 2 px across and 80 * sqrt 2 px down.
        ({"aspect": np.array([math.log(2)])}, (20 - 28.284, 22 - 56.569), (20 + 28.284, 22 - 56.569)),
    ],
)
def test_where_the_windows_corners_lie_in_the_frame_by_hand(
    changes: dict[str, np.ndarray], left_top: tuple[float, float], right_top: tuple[float, float]
) -> None:
    to_frame = placement(**changes).to_frame(BOXES)[0]
    np.testing.assert_allclose(to_frame @ [0, 0, 1], left_top, atol=1e-3)
    np.testing.assert_allclose(to_frame @ [1, 0, 1], right_top, atol=1e-3)


def test_a_target_is_measured_by_the_root_of_its_area() -> None:
    wide = np.array([[6.0, 14, 38, 22]])  # 32 x 8 px: as large as 16 x 16
    to_frame = placement().to_frame(wide)[0]
    np.testing.assert_allclose(to_frame, [[64, 0, 22 - 32], [0, 64, 18 - 32]])


def test_templates_are_exact_and_online_ones_a_little_off() -> None:
    views, flip, rng = ViewConfig(), np.zeros(5000, bool), np.random.default_rng(0)
    template = place_template(views, flip)
    assert (template.side_unit == 0.5).all() and (template.centre_unit == 0.5).all()
    assert not template.rotation.any() and not template.aspect.any()
    online = place_online(views, flip, ~flip, rng)
    assert abs(np.log(online.side_unit / 0.5).std() - 0.1) < 0.01
    assert abs(((online.centre_unit - 0.5) / online.side_unit[:, None]).std() - 0.06) < 0.01


def test_search_windows_lie_as_far_off_as_the_config_says() -> None:
    rng, no = np.random.default_rng(0), np.zeros(20000, bool)
    place = place_search(ViewConfig(), no, np.arange(20000) % 2 == 0, rng)
    offset = (place.centre_unit - 0.5) / place.side_unit[:, None]
    assert abs(np.log(place.side_unit * 4.5).std() - 0.3) < 0.01
    assert 1.25 < np.abs(offset).max() < 1.3
    assert np.abs(offset[:, 0] * offset[:, 1]).max() > 1.4  # on both axes at once
    # Half evenly within 1.3, half normal with 0.25.
    assert abs(offset.var() - (1.3**2 / 3 + 0.25**2) / 2) < 0.01
    segmented, boxed = np.rad2deg(place.rotation[::2]), place.rotation[1::2]
    assert abs(segmented.std() - 12) < 0.3 and not boxed.any()
    assert abs(place.aspect[::2].std() - 0.12) < 0.005 and abs(place.aspect[1::2].std() - 0.06) < 0.003


def test_as_published_a_window_however_wide_has_the_middle_of_its_target() -> None:
    rng, no = np.random.default_rng(0), np.zeros(20000, bool)
    for recipe in (base(), small()):
        for stage in recipe.stages:
            place = place_search(stage.data.views, no, no, rng)
            assert np.abs(place.centre_unit - 0.5).max() == pytest.approx(
                2.25 / stage.data.views.search_factor, rel=1e-3
            )
            assert np.log(place.side_unit).std() == pytest.approx(0.5 / np.sqrt(2), rel=0.03)


def test_a_target_is_stretched_in_all_its_views_alike() -> None:
    plan = draw([video(5)], 4000, shape_jitter=0.4, aspect_jitter=0.0)
    turn = np.abs(plan.to_frame[:, :, TARGET, :, :2])
    shape = np.log(turn[..., 1, 1] / turn[..., 0, 0])
    np.testing.assert_allclose(shape, np.broadcast_to(shape[:, :1], shape.shape), atol=1e-9)
    assert abs(shape.std() - 0.4) < 0.02 and abs(shape.mean()) < 0.02


def test_some_windows_lie_beside_the_target_and_count_as_without_it() -> None:
    config = dataclasses.replace(ALWAYS_PRESENT, away_share=0.3)
    shaped = [video(4, box=(4, 6, 44, 16), first=9 * number, name=str(number)) for number in range(6)]
    plan = draw(shaped, 1500, config, aspect_jitter=0.4, shape_jitter=0.4)
    away = ~plan.present
    assert abs(away.mean() - 0.3) < 0.04
    corners = np.array([[4, 6], [44, 6], [44, 16], [4, 16]], float)  # of the box
    turn, shift = plan.to_frame[:, -1, TARGET, :, :2], plan.to_frame[:, -1, TARGET, :, 2]
    unit = np.linalg.solve(turn[:, None], (corners - shift[:, None])[..., None])[..., 0]
    beside = ((unit > 1).all(axis=1) | (unit < 0).all(axis=1)).any(axis=1)
    assert beside[away].all() and not beside[~away].any()
    assert draw(stills(6), 200, dataclasses.replace(config, away_share=1.0)).present.all()


def test_nothing_of_a_turned_and_stretched_target_is_in_a_window_that_was_moved_out() -> None:
    b, rng = 500, np.random.default_rng(0)
    boxes = np.tile([10.0, 20.0, 50.0, 28.0], (b, 1))
    place = Placement(
        side_unit=rng.uniform(0.1, 0.6, b),
        centre_unit=np.full((b, 2), 0.5),
        rotation=rng.uniform(-math.pi, math.pi, b),
        aspect=rng.normal(0, 0.5, b),
        flip=rng.random(b) < 0.5,
    )
    chosen = rng.random(b) < 0.7
    moved = place.moved_out(chosen, boxes, rng)
    assert (moved.centre_unit == 0.5).all(axis=1).tolist() == (~chosen).tolist()
    to_frame = moved.to_frame(boxes)
    corners = np.array([[10, 20], [50, 20], [50, 28], [10, 28]], float)
    unit = np.linalg.solve(to_frame[:, None, :, :2], (corners - to_frame[:, None, :, 2])[..., None])[..., 0]
    outside = ((unit > 1).all(axis=1) | (unit < 0).all(axis=1)).any(axis=1)
    assert outside.tolist() == chosen.tolist()


def test_a_second_object_is_close_in_front_and_further_away_behind() -> None:
    b = 2000
    place = place_template(ViewConfig(), np.zeros(b, bool))
    in_front = np.arange(b) % 2 == 0
    beside = place.beside(np.random.default_rng(0), in_front)
    distance = np.linalg.norm(beside.centre_unit - 0.5, axis=1) / 0.5
    assert distance[in_front].min() >= 0.4 and distance[in_front].max() <= 0.9
    assert distance[~in_front].min() >= 0.7 and 2 < distance[~in_front].max() <= 2.2
    assert abs(np.log(beside.side_unit / 0.5).std() - 0.25) < 0.02


def test_parts_of_pictures_fill_the_window_from_within() -> None:
    part = np.array([[[0.5, 0, 0.25], [0, 0.5, 1.0]]])
    # Half of the shorter side is 20 px; 80 px are left across and 20 down.
    np.testing.assert_allclose(part_to_frame(part, np.array([[100, 40]])), [[[20, 0, 20], [0, 20, 20]]])
    sizes = np.random.default_rng(0).integers(1, 300, (500, 2))
    to_frame = part_to_frame(random_parts(500, np.random.default_rng(1)), sizes)
    low, high = to_frame @ [0, 0, 1], to_frame @ [1, 1, 1]
    assert (low >= 0).all() and (high <= sizes + 1e-9).all()
    assert (high - low >= sizes.min(axis=1)[:, None] / 2).all()


# --- configs


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"weights": {"coco": 0.0}},
            "weights must map datasets to numbers that are not negative, one of them positive",
        ),
        ({"weights": {"coco": 0.0}}, "one of them positive, got {'coco': 0.0}"),
        ({"weights": {"coco": 2.0, "lasot": -1.0}}, "not negative"),
        ({"weights": {"coco": math.nan}}, "not negative"),
        ({"mode": "sequential"}, "mode must be 'symmetric' or 'causal', got 'sequential'"),
        ({"online_templates": -1}, "online_templates must not be negative, got -1"),
        ({"max_gap_frames": -1}, "max_gap_frames must not be negative, got -1"),
        ({"absent_share": 1.0}, r"absent_share must be in \[0, 1\), got 1.0"),
        ({"paste_share": 1.5}, r"paste_share must be in \[0, 1\], got 1.5"),
        ({"away_share": 1.5}, r"away_share must be in \[0, 1\], got 1.5"),
        ({"neighbours": 0}, "neighbours must be at least 1, got 0"),
    ],
)
def test_a_sample_config_that_cannot_be_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SampleConfig(**{"weights": {"coco": 1.0}} | change)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"search_factor": 0.0}, "search_factor must be positive, got 0.0"),
        ({"rotation_deg": -1.0}, "rotation_deg must not be negative, got -1.0"),
        ({"scale_jitter": math.nan}, "scale_jitter must not be negative, got nan"),
        ({"far_share": 1.1}, r"far_share must be in \[0, 1\], got 1.1"),
        ({"bend_share": -0.1}, r"bend_share must be in \[0, 1\], got -0.1"),
        ({"bend": -0.1}, "bend must not be negative, got -0.1"),
    ],
)
def test_a_view_config_that_cannot_be_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ViewConfig(**change)
