"""Weights files: ours, which describe themselves, and the published ones, whose names only this module knows.

Ours are safetensors with the config as JSON in the metadata. Published ones are pickles; they are read without
running anything that they contain.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mixformerv2.config import PATCH_PX, Config, ModelConfig, TrackerConfig
from mixformerv2.files import write_bytes
from mixformerv2.model.network import Network, build

FORMAT = "mixformerv2"


def save(network: Network, config: Config, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the weights in ``dtype`` with their config; the file appears whole or not at all.

    Raises ValueError when it cannot be written.
    """
    assert network.config == config.model, "the config must describe this network"
    tensors = {
        name: entry.detach().to("cpu", dtype if entry.is_floating_point() else entry.dtype).contiguous()
        for name, entry in network.state_dict().items()
    }
    content = safetensors.torch.save(tensors, metadata={"format": FORMAT, "config": config.to_json()})
    try:
        write_bytes(path, content)
    except OSError as error:
        raise ValueError(f"weights: {error}") from None


def load(path: str | Path) -> tuple[Network, Config]:
    """The network of a file of ours, float32, on the CPU and in evaluation mode, and its config.

    Raises ValueError with one sentence for every other file.
    """
    path = _existing(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except safetensors.SafetensorError as error:
        if _is_pickle(path):
            advice = "convert it first with `mixformerv2 convert`"
            raise ValueError(f"{path} is a PyTorch pickle, not safetensors: {advice}") from None
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise ValueError(f"{path} is a safetensors file without the config of a mixformerv2 model")
    try:
        config = Config.from_json(metadata["config"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    network = Network(config.model)
    _fill(network, tensors, _weight_names(network), path)
    return network.eval(), config


def convert(source: str | Path, target: str | Path, dtype: torch.dtype = torch.float32) -> Config:
    """Turn a published MixFormerV2 or MixViT checkpoint into a file of ours; the config is read off the shapes.

    Nothing in ``source`` is executed. Raises ValueError with one sentence when it is something else.
    """
    network, config = from_published(_unpickle(_existing(source), "net"), source)
    save(network, config, target, dtype)
    return config


def from_published(
    entries: Mapping[str, Tensor], source: str | Path = "the state dict"
) -> tuple[Network, Config]:
    """The network of a published state dict, in evaluation mode, and a config with the published online rules.

    Raises ValueError, with ``source`` as its subject, naming what is missing, unknown or of another shape.
    """
    model = _published_sizes(entries, source)
    network = Network(model)
    tensors = {_our_name(name): entry for name, entry in entries.items() if not _UNUSED.fullmatch(name)}
    for name in ("backbone.prediction_tokens", "backbone.prediction_positions"):
        if name in tensors:
            tensors[name] = tensors[name][:, [0, 2, 1, 3]]  # theirs are left, right, top, bottom
    _fill(network, tensors, _weight_names(network), source)
    return network.eval(), Config(model, TrackerConfig(search_factor=5.0 if model.search_px >= 288 else 4.5))


def from_mae(path: str | Path, config: ModelConfig, seed: int | None = None) -> Network:
    """A network whose patch embedding and first ``depth`` blocks come from a masked autoencoder; the rest is fresh.

    ``path`` is a checkpoint of facebookresearch/mae (ViT-B or ViT-L, patch 16). Raises ValueError when it does not fit.
    """
    network = build(config, seed)
    trunk = ("backbone.patch_embed.", "backbone.blocks.")
    wanted = {name for name in _weight_names(network) if name.startswith(trunk)}
    entries = {f"backbone.{name}": entry for name, entry in _unpickle(_existing(path), "model").items()}
    _fill(network, {name: entries[name] for name in entries.keys() & wanted}, wanted, path)
    return network


# Published names -------------------------------------------------------------------------------------------------

_OURS_FOR_PUBLISHED = {
    "backbone.pos_embed_s": "backbone.positions_search",
    "backbone.pos_embed_t": "backbone.positions_template",
    "backbone.reg_tokens": "backbone.prediction_tokens",
    "backbone.pos_embed_reg": "backbone.prediction_positions",
    "box_head.layers.0.0": "box_head.layers.0",
    "box_head.layers.0.1": "box_head.layers.1",
    "box_head.layers.1.0": "box_head.layers.3",
    "box_head.layers.1.1": "box_head.layers.4",
    "score_head.layers.0.0": "score_head.layers.0",
    "score_head.layers.1": "score_head.layers.2",
} | {
    f"box_head.{part}_{corner}": f"box_head.{our_corner}.{our_part}"
    for corner, our_corner in {"tl": "top_left", "br": "bottom_right"}.items()
    for part, our_part in {
        "conv1": "trunk.0",
        "conv2": "trunk.1",
        "conv3": "trunk.2",
        "conv4": "trunk.3",
        "conv5": "score",
        "adjust1": "lateral.0",
        "adjust2": "lateral.1",
        "adjust3": "coarse_score",
        "adjust4": "middle_score",
    }.items()
}

_HEAD_DIM = 64  # in every published model; the shapes do not tell

# What the published models carry without reading it, and what follows from the sizes.
_UNUSED = re.compile(
    r"backbone\.(cls_token|pos_embed|norm\..*|head\..*)|box_head\.(indice|coord_x|coord_y)|.*\.num_batches_tracked"
)


def _our_name(published: str) -> str:
    for theirs, ours in _OURS_FOR_PUBLISHED.items():
        if published == theirs or published.startswith(f"{theirs}."):
            return ours + published.removeprefix(theirs)
    return published


def _published_sizes(entries: Mapping[str, Tensor], source: str | Path) -> ModelConfig:
    try:
        dim = entries["backbone.patch_embed.proj.weight"].shape[0]
        search_grid, template_grid = (math.isqrt(entries[f"backbone.pos_embed_{c}"].shape[1]) for c in "st")
        hidden = entries["backbone.blocks.0.mlp.fc1.weight"].shape[0]
        corner = "box_head.conv1_tl.0.weight" in entries
        num_bins = 4 * search_grid if corner else entries["box_head.layers.1.0.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"{source} is no MixFormerV2 or MixViT checkpoint: it has no usable {error}"
        ) from None
    if dim % _HEAD_DIM:
        raise ValueError(f"{source} has width {dim}, which does not divide into heads of {_HEAD_DIM}")
    blocks = {match[1] for name in entries if (match := re.match(r"backbone\.blocks\.(\d+)\.", name))}
    return ModelConfig(
        dim=dim,
        depth=len(blocks),
        heads=dim // _HEAD_DIM,
        mlp_ratio=hidden / dim,
        search_px=search_grid * PATCH_PX,
        template_px=template_grid * PATCH_PX,
        num_bins=num_bins,
        box_head="corner" if corner else "tokens",
        score_head=any(name.startswith("score_head.") for name in entries),
    )


# Reading and checking --------------------------------------------------------------------------------------------


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise ValueError(f"there is no weights file {path}")
    return Path(path)


def _weight_names(network: Network) -> set[str]:
    # Nothing reads the counters of batch normalisation, and frozen ones have none.
    return {name for name in network.state_dict() if not name.endswith(".num_batches_tracked")}


def _fill(network: Network, tensors: Mapping[str, Tensor], wanted: set[str], source: str | Path) -> None:
    """Copy ``tensors`` into the network; ValueError unless they are the ``wanted`` ones, each of the right shape."""
    ours = network.state_dict()
    for problem, names in (("lacks", wanted - set(tensors)), ("has the unknown", set(tensors) - set(ours))):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{source} does not fit the model: it {problem} {min(names)}{more}")
    for name, tensor in sorted(tensors.items()):
        if tensor.shape != ours[name].shape:
            raise ValueError(
                f"{source} does not fit the model: {name} has shape {tuple(tensor.shape)}, "
                f"the model's is {tuple(ours[name].shape)}"
            )
    network.load_state_dict(dict(tensors), strict=False)


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4).startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05"))


class _Inert:
    """Stands in for every class and function of the training code that a file mentions: accepts all, does nothing."""

    def __new__(cls, *_: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def _unpickle(path: Path, key: str) -> dict[str, Tensor]:
    """The state dict under ``key`` of a PyTorch file, or the file's own dict, read by torch's weights-only reader.

    Released files also hold settings and statistics, objects of classes that are not installed here. The reader meets
    `_Inert` under each of their names, so it gets past them without importing or calling anything.
    """
    try:
        zipped = zipfile.is_zipfile(path)
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
        with torch.serialization.safe_globals([(_Inert, name) for name in foreign]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle can fail in any way, and all of them mean the same here
        # torch surrounds its reason with advice to read the file unsafely; the reason is the last line of the middle.
        reason = str(error).partition("\n\nCheck the documentation")[0].rpartition("\n")[2]
        reason = reason.rpartition("WeightsUnpickler error: ")[2].partition(". ")[0] or type(error).__name__
        raise ValueError(f"{path} cannot be read as a PyTorch checkpoint: {reason.rstrip('.')}") from None
    entries = content.get(key, content) if isinstance(content, Mapping) else None
    if not isinstance(entries, Mapping):
        raise ValueError(f"{path} holds no state dict, neither by itself nor under {key!r}")
    return {
        str(name).removeprefix("module."): entry
        for name, entry in entries.items()
        if isinstance(entry, Tensor)
    }
