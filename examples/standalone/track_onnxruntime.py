"""Track with ONNX Runtime: python track_onnxruntime.py FOLDER VIDEO x,y,w,h

FOLDER ships with the package (`mixformerv2 models` says where), or is made by: mixformerv2 export MODEL FOLDER
"""

import onnxruntime
from tracking import folder_argument, main

folder = folder_argument()
encoder = onnxruntime.InferenceSession(f"{folder}/encode_templates.onnx")
searcher = onnxruntime.InferenceSession(f"{folder}/search.onnx")
names = [entry.name for entry in searcher.get_inputs()]


def encode(template, online):
    return encoder.run(None, {"template": template, "online": online})


def search(crop, cache):
    return searcher.run(None, dict(zip(names, [crop, *cache], strict=True)))


main(folder, encode, search)
