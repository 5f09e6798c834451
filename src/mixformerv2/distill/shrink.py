"""A network made smaller, or made to fit another config, with what it has learned: the start of a stage.

Blocks fade out and are removed (paper, section 3.4.2), or are left out at once; MLPs keep the units that matter.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from mixformerv2.config import ModelConfig
from mixformerv2.model.attention import Block, Mlp
from mixformerv2.model.backbone import sincos_positions
from mixformerv2.model.initialise import resize_positions, shrink_mlp
from mixformerv2.model.network import Network, build


@runtime_checkable
class Crops(Protocol):
    """What a network looks at: a batch of training examples, for instance."""

    @property
    def template(self) -> Num[Tensor, "b side side 3"]: ...

    @property
    def online(self) -> Num[Tensor, "b online side side 3"]: ...

    @property
    def search(self) -> Num[Tensor, "b side side 3"]: ...


# Fewer blocks -----------------------------------------------------------------------------------------------------


def fade_scale(progress: float) -> float:
    """Scale of the branches of blocks that fade out: 1 at the start, along a cosine, 0 from progress 1 on.

    In the released code the fade takes 40 epochs of 45 (``student_288_depth12to8``).
    """
    return 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def set_branch_scale(network: Network, blocks: Iterable[int], scale: float) -> None:
    """Multiply both residual branches of the blocks by ``scale``, for template and search tokens alike.

    At 0 a block leaves every token as it is, and its weights get gradients of zero. The scale belongs to the running
    network; a checkpoint does not hold it.
    """
    if not 0 <= scale <= 1:
        raise ValueError(f"scale must lie between 0 and 1, got {scale}")
    for index in _existing(network.config.depth, blocks):
        _blocks(network)[index].branch_scale = scale


def remove_blocks(network: Network, blocks: Iterable[int]) -> Network:
    """A copy without these blocks, whose config says so. It answers as before where their scale was 0."""
    removed = _existing(network.config.depth, blocks)
    return keep_blocks(network, [index for index in range(network.config.depth) if index not in removed])


def keep_blocks(network: Network, blocks: Iterable[int]) -> Network:
    """A copy with these blocks alone, in their order in the network."""
    kept = _existing(network.config.depth, blocks)
    if not kept:
        raise ValueError(f"of the {network.config.depth} blocks at least one must stay")
    shallow = copy.deepcopy(network)
    shallow.backbone.blocks = nn.ModuleList(shallow.backbone.blocks[index] for index in kept)
    shallow.config = dataclasses.replace(network.config, depth=len(kept))
    return shallow


def evenly(depth: int, keep: int) -> tuple[int, ...]:
    """The blocks to keep so that those left out are spread evenly, and the last one stays.

    Of 12 blocks 8 are 1, 2, 4, 5, 7, 8, 10, 11 (the paper leaves out 0, 3, 6, 9), and 4 are 2, 5, 8, 11, each the last
    of a group of three (as CompressTracker starts its student).
    """
    if not 1 <= keep <= depth:
        raise ValueError(f"of {depth} blocks between 1 and {depth} can be kept, not {keep}")
    return tuple(-(-(index + 1) * depth // keep) - 1 for index in range(keep))


def skipped(depth: int, keep: int) -> tuple[int, ...]:
    """The blocks that ``evenly`` leaves out; in progressive depth pruning, those that fade."""
    kept = evenly(depth, keep)
    return tuple(index for index in range(depth) if index not in kept)


def _blocks(network: Network) -> list[Block]:
    return cast("list[Block]", list(network.backbone.blocks))


def _existing(depth: int, blocks: Iterable[int]) -> list[int]:
    chosen = sorted(blocks)
    if len(set(chosen)) < len(chosen) or not all(0 <= index < depth for index in chosen):
        raise ValueError(f"blocks must be different numbers from 0 to {depth - 1}, got {chosen}")
    return chosen


# Narrower MLPs ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def narrow_mlps(
    network: Network,
    mlp_ratio: float,
    template: Num[Tensor, "b template_px template_px 3"],
    online: Num[Tensor, "b online template_px template_px 3"],
    search: Num[Tensor, "b search_px search_px 3"],
) -> Network:
    """A copy whose MLPs keep the units that matter most on these crops, with the second layers refitted.

    Block after block, on all tokens whose output is read, as they leave the blocks already narrowed. A few dozen
    examples do. Raises ValueError where the ratio is above the present one or the crops are of another size.
    """
    config = network.config
    hidden = int(config.dim * mlp_ratio)
    if not 1 <= hidden <= int(config.dim * config.mlp_ratio):
        raise ValueError(f"MLPs of ratio {config.mlp_ratio} cannot get ratio {mlp_ratio}: narrower ones can")
    _check_sizes(config, template, search)
    narrow = copy.deepcopy(network)
    narrow.config = dataclasses.replace(config, mlp_ratio=mlp_ratio)
    trunk = narrow.backbone
    templates, tokens, wanted = trunk.template_tokens(template, online), trunk.search_tokens(search), None
    constant = trunk.constant_tokens()
    if constant is not None:
        tokens = torch.cat([tokens, constant.expand(len(tokens), -1, -1)], dim=1)
        wanted = constant.shape[1]
    *before, last = _blocks(narrow)
    for block in before:
        inputs = _Inputs(block.mlp)
        block.both(templates, tokens, trunk.symmetric)
        block.mlp = _narrowed(block.mlp, inputs.taken(), hidden)
        templates, tokens = block.both(templates, tokens, trunk.symmetric)
    inputs = _Inputs(last.mlp)
    last.search(tokens, last.template_keys_values(templates), wanted=wanted)
    last.mlp = _narrowed(last.mlp, inputs.taken(), hidden)
    return narrow


def _check_sizes(config: ModelConfig, template: Tensor, search: Tensor) -> None:
    if (template.shape[1], search.shape[1]) != (config.template_px, config.search_px):
        raise ValueError(
            f"calibration crops must have sides of {config.template_px} px (templates) and {config.search_px} px "
            f"(search), got {template.shape[1]} and {search.shape[1]}"
        )


class _Inputs:
    """What an MLP is given from now on until it is ``taken``."""

    def __init__(self, mlp: nn.Module) -> None:
        self._seen: list[Tensor] = []
        self._handle = mlp.register_forward_pre_hook(
            lambda _, given: self._seen.append(given[0].flatten(0, 1))
        )

    def taken(self) -> Float[Tensor, "rows dim"]:
        self._handle.remove()
        return torch.cat(self._seen)


def _narrowed(mlp: Mlp, inputs: Float[Tensor, "rows dim"], hidden: int) -> Mlp:
    weight = mlp.fc1.weight
    with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten, and nobody should notice
        narrow = Mlp(weight.shape[1], hidden).to(weight)
    narrow.load_state_dict(
        shrink_mlp({f"mlp.{name}": w for name, w in mlp.state_dict().items()}, inputs, hidden)
    )
    return narrow.train(mlp.training).requires_grad_(weight.requires_grad)


# Another config ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def adapt(
    network: Network,
    config: ModelConfig,
    calibration: Crops | None = None,
    seed: int = 0,
    blocks: Sequence[int] | None = None,
) -> Network:
    """A network of ``config``, on the CPU in float32, that starts with all of ``network`` that fits.

    Kept are ``blocks`` (by default ``evenly`` chosen ones); positions are resampled to another input size; MLPs are
    narrowed on ``calibration``, crops of the new size. A head of another kind or with other bins starts fresh, as do
    prediction tokens and a score head that were not there before; what the config does not have is dropped.
    Raises ValueError for another width or number of heads, for more depth, for wider MLPs, and for narrower ones
    without ``calibration``.
    """
    source = network.config
    check_reachable(source, config)
    if calibration is None and _hidden(config) < _hidden(source):
        raise ValueError(
            f"to narrow MLPs from ratio {source.mlp_ratio} to {config.mlp_ratio} takes calibration crops"
        )
    chosen = evenly(source.depth, config.depth) if blocks is None else blocks
    if calibration is not None:
        _check_sizes(config, calibration.template, calibration.search)
    if len(chosen) != config.depth:
        raise ValueError(f"the config asks for {config.depth} blocks, and {len(chosen)} are to be kept")
    trunk = keep_blocks(network, chosen)
    _resize_input(trunk, config)
    if _hidden(config) < _hidden(source):
        assert calibration is not None
        crops = (calibration.template, calibration.online, calibration.search)
        trunk = narrow_mlps(trunk, config.mlp_ratio, *crops)
    return _with_heads(trunk, config, calibration, seed)


def _hidden(config: ModelConfig) -> int:
    return int(config.dim * config.mlp_ratio)


def check_reachable(source: ModelConfig, config: ModelConfig) -> None:
    """Raises ValueError where ``adapt`` cannot make a network of the one config of one of the other."""
    if (source.dim, source.heads) != (config.dim, config.heads):
        raise ValueError(
            f"width and heads stay as they are: the network has {source.dim} and {source.heads}, "
            f"the config asks for {config.dim} and {config.heads}"
        )
    for name, have, want in (
        ("depth", source.depth, config.depth),
        ("mlp_ratio", source.mlp_ratio, config.mlp_ratio),
    ):
        if want > have:
            raise ValueError(
                f"{name} can only get smaller: the network has {have}, the config asks for {want}"
            )


def _resize_input(network: Network, config: ModelConfig) -> None:
    """Crops of the config's sizes, in place."""
    trunk = network.backbone
    for name, grid in (
        ("positions_search", config.search_grid),
        ("positions_template", config.template_grid),
    ):
        positions = getattr(trunk, name)
        resized = _positions_of_grid(positions, grid)
        setattr(trunk, name, nn.Parameter(resized, requires_grad=positions.requires_grad))
    bins = 4 * config.search_grid if network.config.box_head == "corner" else network.config.num_bins
    network.config = dataclasses.replace(
        network.config, search_px=config.search_px, template_px=config.template_px, num_bins=bins
    )


def _positions_of_grid(
    positions: Float[Tensor, "1 tokens dim"], grid: int
) -> Float[Tensor, "1 out_tokens dim"]:
    side, dim = math.isqrt(positions.shape[1]), positions.shape[2]
    # The fixed ones count tokens, whatever their number: the released code writes them anew for every input size.
    if side != grid and torch.allclose(positions, sincos_positions(dim, side).to(positions), atol=1e-3):
        return sincos_positions(dim, grid).to(positions)
    return resize_positions(positions, grid)


def _with_heads(trunk: Network, config: ModelConfig, calibration: Crops | None, seed: int) -> Network:
    fresh = build(config, seed)
    have, wanted = trunk.config, fresh.state_dict()
    of_head = ("box_head", "num_bins", "prediction_tokens", "regression")
    same_box_head = all(getattr(have, name) == getattr(config, name) for name in of_head)
    same_tokens = have.num_prediction_tokens == config.num_prediction_tokens
    replaced = ("box_head.",) * (not same_box_head) + ("backbone.prediction_",) * (not same_tokens)
    kept = {
        name: tensor
        for name, tensor in trunk.state_dict().items()
        if name in wanted and not name.startswith(replaced)
    }
    fresh.load_state_dict(wanted | kept)
    tokens = fresh.backbone.prediction_tokens
    if tokens is not None and not same_tokens:
        generator = torch.Generator().manual_seed(seed)
        tokens.copy_(_token_scale(trunk, calibration) * torch.randn(tokens.shape, generator=generator))
    return fresh


def _token_scale(network: Network, calibration: Crops | None) -> float:
    """Root mean square of the search tokens that enter the trunk; fresh prediction tokens are drawn on that scale.

    The residual stream is never normalised: much smaller ones would all be turned into the same token by the first
    block, and much larger ones would not be moved by any.
    """
    trunk = network.backbone
    if calibration is None:
        # Patches of one colour give most of what natural ones give.
        side = network.config.search_px
        levels = torch.tensor([0.0, 64.0, 128.0, 192.0, 255.0], device=trunk.positions_search.device)
        crops = levels.view(-1, 1, 1, 1).expand(-1, side, side, 3)
    else:
        crops = calibration.search
    return float(trunk.search_tokens(crops).float().square().mean().sqrt())
