#!/usr/bin/env python3
"""Loads what `lumpd export encoder` wrote into torchvision's ResNet-18, strictly: every name and shape has to be there.

    lumpd export encoder -o encoder.safetensors --state-dir STATE
    python tests/parity/check_export.py encoder.safetensors

With a running daemon that has published the exported step, and a picture of exactly the encoder's size, both embeddings are
compared as well (cosine at least 0.99999):

    python tests/parity/check_export.py encoder.safetensors --image picture.png --api http://127.0.0.1:7717

Needs torch, torchvision and, for a picture, pillow.
"""

import argparse
import json
import struct
import sys
import urllib.request
from pathlib import Path

import numpy as np
import torch
import torchvision

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def load_file(path):
    data = Path(path).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32", f"{name} is {entry['dtype']}"
        first, end = entry["data_offsets"]
        values = np.frombuffer(data[8 + length + first : 8 + length + end], dtype="<f4").copy()
        tensors[name] = torch.from_numpy(values.reshape(entry["shape"]))
    return tensors


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("file")
    arguments.add_argument("--image")
    arguments.add_argument("--api", default="http://127.0.0.1:7717")
    arguments = arguments.parse_args()
    tensors = load_file(arguments.file)
    net = torchvision.models.resnet18()
    absent = sorted(set(net.state_dict()) - set(tensors))
    assert [name for name in absent if "num_batches_tracked" not in name] == ["fc.bias", "fc.weight"], absent
    net.fc = torch.nn.Identity()
    net.load_state_dict(tensors, strict=True)
    net.eval()
    print(f"{len(tensors)} tensors, {sum(t.numel() for t in tensors.values())} values loaded strictly; absent: fc")
    if arguments.image is None:
        return
    from PIL import Image

    pixels = torch.from_numpy(np.asarray(Image.open(arguments.image).convert("RGB")).copy()).float() / 255
    with torch.no_grad():
        theirs = net(((pixels - MEAN) / STD).permute(2, 0, 1)[None])[0]
    request = urllib.request.Request(f"{arguments.api}/v1/embed", Path(arguments.image).read_bytes(), {"Content-Type": "image/png"})
    answer = json.load(urllib.request.urlopen(request))
    ours = torch.tensor(answer["vector"])
    cosine = torch.nn.functional.cosine_similarity(ours, theirs, dim=0).item()
    print(f"cosine of both embeddings {cosine:.8f} (encoder {answer.get('encoder')})")
    if not cosine >= 0.99999:
        sys.exit("the embeddings differ: is the published version that of the exported step?")


if __name__ == "__main__":
    main()
