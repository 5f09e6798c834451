"""Track with OpenVINO: python track_openvino.py FOLDER VIDEO x,y,w,h

FOLDER ships with the package (`mixformerv2 models` says where), or is made by: mixformerv2 export MODEL FOLDER
"""

from pathlib import Path

import openvino
from tracking import folder_argument, main

folder = folder_argument()
options = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",
}  # bf16 where the processor has it
suffix = ".xml" if Path(folder, "search.xml").exists() else ".onnx"  # of --target openvino
core = openvino.Core()  # one: of two, the end of one takes the signals from the other
encoder, searcher = (
    core.compile_model(f"{folder}/{name}{suffix}", "CPU", options) for name in ("encode_templates", "search")
)


def encode(template, online):
    return encoder([template, online]).to_tuple()


def search(crop, cache):
    return searcher([crop, *cache]).to_tuple()


main(folder, encode, search)
