"""The search graph in 8-bit integers: quantised after training by NNCF on examples, checked on others.

Templates are encoded rarely, so their graph stays as it is. Layers that the answer is most sensitive to stay in
floating point, as many as it takes for the box to stay within a limit of what it was.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openvino as ov
from jaxtyping import Float, UInt8
from openvino import opset13 as op

from mixformerv2.runtime.backend import ENCODE_GRAPH, INT8_GRAPH, INT8_WEIGHTS, SEARCH_GRAPH
from mixformerv2.runtime.openvino import MADE_OF, core, digest_of_source

Progress = Callable[[str], None]
_F32 = {"INFERENCE_PRECISION_HINT": "f32"}


class Example(NamedTuple):
    """What a tracker looked at once."""

    template: UInt8[np.ndarray, "side side 3"]
    online: UInt8[np.ndarray, "online side side 3"]
    crop: UInt8[np.ndarray, "crop_side crop_side 3"]


@dataclass(frozen=True)
class QuantiseConfig:
    max_drift: float = 0.003  # mean distance of a side from where f32 sees it, in sides of the crop
    held_out: int = 4  # every so many examples one is for checking and not for calibration

    def __post_init__(self) -> None:
        if not 0 <= self.max_drift < 1 or self.held_out < 2:
            raise ValueError(
                f"max_drift must be at least 0 and below 1, and held_out at least 2, got {self.max_drift} and "
                f"{self.held_out}"
            )


@dataclass(frozen=True)
class Quantised:
    """How far the boxes moved, in sides of the crop, and what was not quantised for that."""

    mean_drift: float
    worst_drift: float
    in_floating_point: tuple[str, ...]


def quantise(
    folder: Path,
    examples: Sequence[Example],
    config: QuantiseConfig | None = None,
    progress: Progress = lambda _: None,
) -> Quantised:
    """Writes the int8 graph beside the others in ``folder``, once it is good enough.

    Raises ValueError where there are too few examples, or where nothing that is worth it stays within the limit.
    """
    config = config or QuantiseConfig()
    if len(examples) < 2 * config.held_out:
        raise ValueError(
            f"quantising needs at least {2 * config.held_out} examples to calibrate on, got {len(examples)}"
        )
    encoder = core().compile_model(folder / ENCODE_GRAPH, "CPU", _F32)
    inputs = [_inputs(encoder, example) for example in examples]
    graph = core().read_model(folder / SEARCH_GRAPH)
    groups = _layers(graph)
    _fold_weights(graph)
    trial = _Trial(graph, groups, inputs, config.held_out)
    kept = [name for name in groups if "head" in name]  # four tokens: nothing to gain
    made, drift = trial.run(kept)
    progress(f"all layers in int8: mean drift {drift.mean():.4f} of the crop's side")
    if drift.mean() > config.max_drift:
        for name in trial.most_sensitive_first([name for name in groups if name not in kept], progress):
            kept.append(name)
            if len(kept) > len(groups) // 2:
                raise ValueError(
                    f"with half of its layers in floating point the int8 graph is still {drift.mean():.4f} of the "
                    f"crop's side off the f32 one in the mean, more than {config.max_drift}: calibrate on more "
                    "varied video, or raise the limit"
                )
            made, drift = trial.run(kept)
            progress(f"{name} in floating point: mean drift {drift.mean():.4f}")
            if drift.mean() <= config.max_drift:
                break
    made.set_rt_info(digest_of_source(folder), MADE_OF)
    _write(made, folder)
    return Quantised(float(drift.mean()), float(drift.max()), tuple(kept))


class _Trial:
    """The graph, quantised but for some of its layers, held against itself in f32."""

    def __init__(
        self,
        graph: ov.Model,
        layers: dict[str, list[str]],
        inputs: list[dict[str, np.ndarray]],
        held_out: int,
    ) -> None:
        self._graph, self._layers = graph, layers
        self._checks = inputs[::held_out]
        self._calibration = [one for index, one in enumerate(inputs) if index % held_out]
        self._reference = self._boxes(graph)

    def run(self, in_floating_point: Iterable[str]) -> tuple[ov.Model, Float[np.ndarray, "checks 4"]]:
        """The quantised graph, and how far each side of each checked box is off."""
        import nncf

        nncf.set_log_level(logging.ERROR)
        names = [operation for layer in in_floating_point for operation in self._layers[layer]]
        made = nncf.quantize(
            self._graph.clone(),
            nncf.Dataset(self._calibration),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(self._calibration),
            ignored_scope=nncf.IgnoredScope(names=names),
        )
        return made, np.abs(self._boxes(made) - self._reference)

    def most_sensitive_first(self, layers: list[str], progress: Progress) -> list[str]:
        """By how much the drift falls when the layer alone is left in floating point."""
        drifts = {}
        for layer in layers:
            drifts[layer] = self.run([layer])[1].mean()
            progress(f"without {layer}: mean drift {drifts[layer]:.4f}")
        return sorted(layers, key=lambda layer: drifts[layer])

    def _boxes(self, graph: ov.Model) -> Float[np.ndarray, "checks 4"]:
        model = core().compile_model(graph, "CPU", _F32)
        return np.concatenate([model(one)["box_unit"] for one in self._checks])


def _inputs(encoder: ov.CompiledModel, example: Example) -> dict[str, np.ndarray]:
    """What the search graph is given for an example."""
    cache = encoder({"template": example.template[None], "online": example.online[None]})
    return {"crop": example.crop[None]} | {port.any_name: value.copy() for port, value in cache.items()}


def _is_constant(output: ov.Output) -> bool:
    node = output.get_node()
    return node.get_type_name() != "Parameter" and all(map(_is_constant, node.input_values()))


def _layers(graph: ov.Model) -> dict[str, list[str]]:
    """The products of the graph by the layer whose weights they take; those of two activations are ``attention``."""
    layers: dict[str, list[str]] = {}
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "MatMul":
            weights = [value for value in node.input_values() if _is_constant(value)]
            layer = _layer(weights[0].get_node()) if weights else "attention"
            layers.setdefault(layer, []).append(node.get_friendly_name())
    return layers


def _layer(node: ov.Node) -> str:
    """The layer that a constant comes from; what is no layer's is the head's."""
    name = node.get_friendly_name()
    if node.get_type_name() == "Constant" and name.endswith((".weight.f16", ".bias.f16")):
        return name.rsplit(".", 2)[0]
    return next(
        (layer for value in node.input_values() if (layer := _layer(value.get_node())) != "head"), "head"
    )


def _fold_weights(graph: ov.Model) -> None:
    """Every product takes its weights as they are multiplied: int8 arithmetic is not found behind a turned constant."""
    ports = [
        port
        for node in graph.get_ordered_ops()
        if node.get_type_name() == "MatMul"
        for port in node.inputs()
        if _is_constant(port.get_source_output())
    ]
    constants = core().compile_model(
        ov.Model([op.result(p.get_source_output()) for p in ports], []), "CPU", _F32
    )({})
    for index, port in enumerate(ports):
        port.replace_source_output(op.constant(constants[index].copy()).output(0))


def _write(graph: ov.Model, folder: Path) -> None:
    """Both files or none."""
    with tempfile.TemporaryDirectory(prefix=".quantise-", dir=folder) as unfinished:
        ov.save_model(graph, Path(unfinished) / INT8_GRAPH)
        for name in (INT8_WEIGHTS, INT8_GRAPH):
            os.replace(Path(unfinished) / name, folder / name)
