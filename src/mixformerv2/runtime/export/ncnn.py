"""ncnn, for phones and small boards: converted by pnnx, one target, shapes fixed, crops as float."""

from __future__ import annotations

import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import ncnn
import numpy as np
import pnnx
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixformerv2.model.network import Network
from mixformerv2.runtime.backend import Backend
from mixformerv2.runtime.export.graphs import Pair
from mixformerv2.runtime.export.loaded import LoadedPair


class _EncodeTemplates(nn.Module):
    """As the network's own, but the templates meet as tokens: ncnn knows no batch to lay their pictures in."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.backbone = network.backbone

    def forward(
        self, template: Float[Tensor, "1 side side 3"], online: Float[Tensor, "1 side side 3"]
    ) -> tuple[Tensor, ...]:
        trunk = self.backbone
        parts = [trunk.patch_embed(crop) + trunk.positions_template for crop in (template, online)]
        tokens, cache = torch.cat(parts, dim=1), []
        for block in trunk.blocks[:-1]:
            tokens, keys_values = block.encode_templates(tokens)
            cache.extend(keys_values)
        return *cache, *trunk.blocks[-1].template_keys_values(tokens)


def write(pair: Pair, folder: Path) -> None:
    """``encode_templates`` and ``search`` as ``.ncnn.param`` and ``.ncnn.bin``, weights in single precision."""
    if pair.batch != 1:
        raise ValueError(
            f"the target ncnn holds one target: leave --batch out or make it 1, got {pair.batch}"
        )
    if pair.config.model.attention == "symmetric":
        raise ValueError("the target ncnn keeps keys and values of templates: symmetric attention has none")
    template, online = pair.encode_inputs()
    crop, *cache = pair.search_inputs()
    _convert(_EncodeTemplates(pair.network).eval(), (template, online[:, 0]), folder, "encode_templates")
    _convert(pair.search, (crop, *cache), folder, "search")


def _convert(module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, name: str) -> None:
    as_float = tuple(entry.float() for entry in inputs)
    shapes = ",".join(f"[{','.join(map(str, entry.shape))}]f32" for entry in inputs)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        with warnings.catch_warnings():
            # pnnx reads nothing but TorchScript, which torch calls deprecated.
            warnings.simplefilter("ignore")
            torch.jit.trace(module, as_float, check_trace=False).save(f"{scratch}/{name}.pt")
        command = [pnnx.EXEC_PATH, f"{name}.pt", f"inputshape={shapes}", "fp16=0"]
        ran = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        if ran.returncode or not (Path(scratch) / f"{name}.ncnn.bin").is_file():
            raise ValueError(f"pnnx cannot convert this model to ncnn: {ran.stderr.strip()[-200:]}")
        for suffix in ("param", "bin"):
            file = f"{name}.ncnn.{suffix}"
            (Path(scratch) / file).rename(folder / file)


def load(folder: Path, pair: Pair) -> Iterator[Backend]:
    encode = _loaded(folder / "encode_templates.ncnn", 2 * pair.config.model.depth)
    search = _loaded(folder / "search.ncnn", 2)

    def answer(crop: np.ndarray, *cache: np.ndarray) -> list[np.ndarray]:
        box_unit, score = search(crop, *cache)
        return [box_unit, score[0]]

    yield LoadedPair("ncnn", pair.config, lambda template, online: encode(template, online[:, 0]), answer)


def _loaded(graph: Path, num_outputs: int) -> Callable[..., list[np.ndarray]]:
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(f"{graph}.param") or net.load_model(f"{graph}.bin"):
        raise ValueError(
            f"ncnn cannot load {graph.name}: it has an operation that this version does not know"
        )

    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        extractor = net.create_extractor()
        # Kept until the end: the extractor reads their memory later, and clone() of a Mat does not own it either.
        inputs = [np.ascontiguousarray(array[0], np.float32) for array in arrays]
        for index, entry in enumerate(inputs):
            extractor.input(f"in{index}", ncnn.Mat(entry))
        return [np.array(extractor.extract(f"out{index}")[1])[None] for index in range(num_outputs)]

    return run
