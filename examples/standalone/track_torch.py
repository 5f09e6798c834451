"""Track with torch and nothing of this project: python track_torch.py FOLDER VIDEO x,y,w,h

FOLDER is made by: mixformerv2 export MODEL FOLDER --target torch
"""

import torch
from tracking import folder_argument, main

folder = folder_argument()
encoder = torch.export.load(f"{folder}/encode_templates.pt2").module()
searcher = torch.export.load(f"{folder}/search.pt2").module()


@torch.inference_mode()
def encode(template, online):
    return encoder(torch.from_numpy(template), torch.from_numpy(online))


@torch.inference_mode()
def search(crop, cache):
    return searcher(torch.from_numpy(crop), *cache)


main(folder, encode, search)
