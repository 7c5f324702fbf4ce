#!/usr/bin/env python3
"""Writes the numbers of torchvision's ResNet-18 that tests/lumpd/parity.rs compares the ImageNet form with.

    python tests/parity/make_torchvision.py

makes torchvision.safetensors beside itself. Needs torch and torchvision; the numbers at hand are those of torch 2.15 and
torchvision 0.29, in float64. The weights are random, and come from a formula that both sides evaluate, so that none are stored:
value i of what is called `name` is unit(fnv1a(name) + i * GOLDEN), see below.
"""

import json
import math
import struct
from pathlib import Path

import numpy as np
import torch
import torchvision

torch.set_default_dtype(torch.float64)
HERE = Path(__file__).parent
GOLDEN = 0x9E3779B97F4A7C15


def units(name, count):
    """`count` numbers of [-1, 1) with 24 bits: splitmix64 of a counter that starts at the FNV-1a hash of the name."""
    start = 0xCBF29CE484222325
    for byte in name.encode():
        start = (start ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(start) + np.arange(count, dtype=np.uint64) * np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0


def random(name, shape):
    return torch.from_numpy(units(name, math.prod(shape)).reshape(shape))


def weight(name, shape):
    """Convolutions uniform with the variance 2 / fan-out; batch norm off the identity. Rounded to float32."""
    u = random(name, shape)
    if len(shape) == 4:
        value = u * math.sqrt(6.0 / (shape[0] * shape[2] * shape[3]))
    elif name.endswith("running_var"):
        value = 1.0 + 0.5 * u
    elif name.endswith(".weight"):
        value = 1.0 + 0.25 * u
    else:
        value = 0.25 * u
    return value.float().double()


def model():
    net = torchvision.models.resnet18()
    net.fc = torch.nn.Identity()
    state = {
        name: torch.zeros_like(tensor) if "num_batches_tracked" in name else weight(name, tuple(tensor.shape))
        for name, tensor in net.state_dict().items()
    }
    net.load_state_dict(state)
    return net.double()


def save_file(tensors, path):
    header, values = {}, b""
    for name, tensor in sorted(tensors.items()):
        data = tensor.detach().contiguous().numpy().astype(np.float64).tobytes()
        header[name] = {"dtype": "F64", "shape": list(tensor.shape), "data_offsets": [len(values), len(values) + len(data)]}
        values += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)


def images(name, count, side):
    return random(name, (count, side, side, 3)).permute(0, 3, 1, 2)


def main():
    out = {}
    net = model().eval()
    with torch.no_grad():
        out["embedding.64"] = net(images("images.64", 2, 64))
        out["embedding.97"] = net(images("images.97", 1, 97))

    # Two views of four images, each with its own batch statistics.
    net = model().train()
    views = images("images.train", 8, 48)
    features = torch.cat([net(views[:4]), net(views[4:])])
    out["features"] = features
    (features * random("direction", tuple(features.shape))).sum().backward()
    # Of each gradient its length, and its product with a random direction.
    for name, parameter in net.named_parameters():
        direction = random(f"direction.{name}", tuple(parameter.shape))
        out[f"gradient.{name}"] = torch.stack([parameter.grad.norm(), (parameter.grad * direction).sum()])
    for name, value in net.state_dict().items():
        if "running" in name:
            out[f"statistics.{name}"] = torch.stack([value.norm(), (value * random(f"direction.{name}", tuple(value.shape))).sum()])
    save_file(out, HERE / "torchvision.safetensors")
    print((HERE / "torchvision.safetensors").stat().st_size, "bytes; torch", torch.__version__, "torchvision", torchvision.__version__)


if __name__ == "__main__":
    main()
