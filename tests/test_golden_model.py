"""Equality with the published implementation: outputs, features, teacher maps, crops and labels (tests/golden)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import published
import pytest
import torch
from torch import Tensor

from mixformerv2.geometry import CropWindow, xywh_to_xyxy, xyxy_to_xywh
from mixformerv2.model.attention import KeyValue
from mixformerv2.model.network import Network, Prediction

LOGITS = dict(rtol=0, atol=1e-4)
PROBABILITIES = dict(rtol=0, atol=1e-5)
FEATURE_NORMS = dict(rtol=1e-6, atol=1e-4)  # about 30


@pytest.fixture(scope="module")
def small() -> Network:
    return published.network("mixformerv2_small", "small/")[0]


@pytest.fixture(scope="module")
def small_inputs() -> tuple[Tensor, Tensor, Tensor]:
    sides = {"template": 112, "online_template": 112, "search": 224}
    template, online, search = (published.crops(name, "small/", 2, side) for name, side in sides.items())
    return template, online[:, None], search


@pytest.fixture(scope="module")
def small_prediction(small: Network, small_inputs: tuple[Tensor, Tensor, Tensor]) -> Prediction:
    template, online, search = small_inputs
    with torch.inference_mode():
        return small.search(search, small.encode_templates(template, online))


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(published.GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def box_unit(golden_boxes: np.ndarray) -> np.ndarray:
    """xyxy from the golden (b, 1, 4) of centre and size."""
    centre, size = golden_boxes[:, 0, :2], golden_boxes[:, 0, 2:]
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def test_small_has_the_published_side_distributions(small_prediction: Prediction) -> None:
    reference = golden("mixformerv2_small")
    for logits, side in zip(small_prediction.side_logits.unbind(1), "ltrb", strict=True):
        np.testing.assert_allclose(logits, reference[f"logit_{side}"], **LOGITS)
        np.testing.assert_allclose(logits.softmax(-1), reference[f"prob_{side}"], **PROBABILITIES)


def test_small_has_the_published_boxes_and_scores(small_prediction: Prediction) -> None:
    reference = golden("mixformerv2_small")
    np.testing.assert_allclose(small_prediction.box_unit, box_unit(reference["pred_boxes"]), **PROBABILITIES)
    assert small_prediction.score_logits is not None
    np.testing.assert_allclose(small_prediction.score_logits, reference["pred_scores"], **LOGITS)


def test_small_has_the_published_prediction_tokens(small_prediction: Prediction) -> None:
    ours = small_prediction.features[-1][:, [0, 2, 1, 3]]  # the reference goes left, right, top, bottom
    np.testing.assert_allclose(ours, golden("mixformerv2_small")["prediction_tokens"], **LOGITS)


def every_token_after_every_block(
    network: Network, template: Tensor, online: Tensor, search: Tensor
) -> Iterator[Tensor]:
    """Template, online, search and prediction tokens: all that the full computation has, without our savings."""
    trunk = network.backbone
    assert trunk.prediction_tokens is not None
    online_tokens = trunk.patch_embed(online[:, 0]) + trunk.positions_template
    templates = torch.cat([trunk.patch_embed(template) + trunk.positions_template, online_tokens], dim=1)
    constant = (trunk.prediction_tokens + trunk.prediction_positions).expand(len(search), -1, -1)
    tokens = torch.cat([trunk.patch_embed(search) + trunk.positions_search, constant], dim=1)
    keys_values: KeyValue
    for block in trunk.blocks:
        templates, keys_values = block.encode_templates(templates)
        tokens = block.search(tokens, keys_values, wanted=None)
        yield torch.cat([templates, tokens], dim=1)


def test_small_has_the_published_features_after_every_block(
    small: Network, small_inputs: tuple[Tensor, Tensor, Tensor], small_prediction: Prediction
) -> None:
    reference = golden("mixformerv2_small")
    reference_order = [
        *range(294),
        294,
        296,
        295,
        297,
    ]  # ours of its tokens: it goes left, right, top, bottom
    with torch.inference_mode():
        every = list(every_token_after_every_block(small, *small_inputs))
    for index, (full, saved) in enumerate(zip(every, small_prediction.features, strict=True)):
        norms = full.norm(dim=-1)[:, reference_order]
        np.testing.assert_allclose(norms, reference[f"feature_norm_{index}"], **FEATURE_NORMS)
        # What the network itself computes of the block, without templates and in the end four tokens, is exact.
        torch.testing.assert_close(saved, full[:, -saved.shape[1] :], rtol=0, atol=1e-4)


def test_teacher_has_the_published_corner_maps_and_boxes() -> None:
    reference, salt = golden("mixvit_b_teacher"), "teacher_b/"
    teacher, _ = published.network("mixvit_b_teacher", salt)
    template, online, search = (
        published.crops(name, salt, 1, side)
        for name, side in {"template": 128, "online_template": 128, "search": 288}.items()
    )
    with torch.inference_mode():
        prediction = teacher.search(search, teacher.encode_templates(template, online[:, None]))
        maps = teacher.box_head.corner_logits(prediction.features[-1]).flatten(2).softmax(-1)
    np.testing.assert_allclose(maps[:, 0], reference["prob_tl"], **PROBABILITIES)
    np.testing.assert_allclose(maps[:, 1], reference["prob_br"], **PROBABILITIES)
    np.testing.assert_allclose(prediction.box_unit, box_unit(reference["pred_boxes"]), **PROBABILITIES)
    # The sides are the marginals of the maps: left and top of the first, right and bottom of the second.
    top_left, bottom_right = reference["prob_tl"].reshape(72, 72), reference["prob_br"].reshape(72, 72)
    marginals = [top_left.sum(0), top_left.sum(1), bottom_right.sum(0), bottom_right.sum(1)]
    np.testing.assert_allclose(prediction.side_logits[0].exp(), marginals, **PROBABILITIES)


FRAME_SIZE = (360, 240)  # of the golden frame
CROP_ROWS = tuple(enumerate(golden("crops")["rows"]))


def golden_window(row: np.ndarray) -> CropWindow:
    """Row: frame, x, y, w, h, factor, size, resize factor, true x, y, w, h, label x, y, w, h."""
    return CropWindow.around(xywh_to_xyxy(row[1:5]), row[5], int(row[6]), published_mapping=True)


@pytest.mark.parametrize(("index", "row"), CROP_ROWS)
def test_a_crop_has_the_published_pixels(index: int, row: np.ndarray) -> None:
    path = Path(__file__).parents[2] / "shared" / "data" / "otb" / "Crossing" / "img" / "0001.jpg"
    if not path.is_file():
        pytest.skip("the golden frame, ../shared/data/otb/Crossing/img/0001.jpg, is not here")
    frame = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(golden_window(row).cut(frame), golden("crops")[f"crop_{index}"])


@pytest.mark.parametrize(("index", "row"), CROP_ROWS)
def test_a_crop_is_padded_where_the_published_one_is(index: int, row: np.ndarray) -> None:
    white = np.full((FRAME_SIZE[1], FRAME_SIZE[0], 3), 255, np.uint8)
    crop, reference = golden_window(row).cut(white), golden("crops")[f"crop_{index}"]
    for axes in ((0, 2), (1, 2)):
        np.testing.assert_array_equal((crop == 0).all(axes), (reference == 0).all(axes))


@pytest.mark.parametrize(("index", "row"), CROP_ROWS)
def test_a_label_is_the_published_one_but_for_its_half_pixel(index: int, row: np.ndarray) -> None:
    window = golden_window(row)
    assert window.out_px / window.side == pytest.approx(row[7], abs=1e-12), index
    label = xyxy_to_xywh(window.to_unit(xywh_to_xyxy(row[8:12])))
    # The released training code centres a crop at (size - 1) / 2, its tracker at size / 2, as we do everywhere.
    label[:2] -= 0.5 / window.out_px
    np.testing.assert_allclose(label, row[12:16], rtol=0, atol=1e-6)
