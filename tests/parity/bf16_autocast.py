#!/usr/bin/env python3
"""How far a step in PyTorch's bf16 autocast is from the same step in f64: what rounding to bf16 costs whoever does it.

The numbers are quoted in src/encoder/cuda/tests.rs. Needs torch; runs on the CPU:  python tests/parity/bf16_autocast.py
"""
import copy

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        opens = stride != 1 or inputs != outputs
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.downsample = shortcut if opens else nn.Identity()

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.downsample(x))


class Network(nn.Module):
    """ResNet-18 with the 3x3 stem, its features."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        blocks, inputs = [], width
        for stage in range(4):
            outputs = width << stage
            blocks += [Block(inputs, outputs, 2 if stage else 1), Block(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x):
        return self.blocks(torch.relu(self.bn1(self.conv1(x)))).mean((2, 3))


def step(network, images, direction, autocast):
    """Features and gradient of <features, direction>; each half of the batch is normalised by itself."""
    half = len(images) // 2
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        features = torch.cat([network(images[:half]), network(images[half:])])
    (features.to(direction.dtype) * direction).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
    return features.detach().double(), gradient.double()


def main():
    torch.manual_seed(0)
    for width, count, side in [(8, 8, 12), (16, 8, 32), (16, 32, 16)]:
        network = Network(width)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, nn.BatchNorm2d):
                for parameter in module.parameters():
                    parameter.data += 0.2 * torch.randn_like(parameter)
        exact = copy.deepcopy(network).double()
        network = network.to(memory_format=torch.channels_last)
        images, direction = torch.randn(count, 3, side, side), torch.randn(count, 8 * width)
        found = step(network, images.contiguous(memory_format=torch.channels_last), direction, True)
        expected = step(exact, images.double(), direction.double(), False)
        error = [((a - b).norm() / b.norm()).item() for a, b in zip(found, expected)]
        cosine = torch.nn.functional.cosine_similarity(found[1], expected[1], dim=0).item()
        print(f"width {width}, {count} images of {side} px: features {error[0]:.4f}, gradient {error[1]:.4f}, cosine {cosine:.4f}")


main()
