#!/usr/bin/env python3
"""The same work as `lumpd bench train|embed` in PyTorch: the other side of a ratio.

A training step is what SimSiam with LUMP costs: two random views of each image of the stream and of as many replayed ones, the
views of both mixed pair by pair, ResNet-18 with a 3x3 stem on each view, projector and predictor, the loss, its gradients, and
SGD with momentum and weight decay. `embed` is the network alone in evaluation mode. Random images; one image is two views.

    torch_step.py train --batch 64 --size 32 --augment [--dtype bf16 --channels-last] [--device cuda] [--compile]
    torch_step.py embed --batch 64 --size 32

Prints one JSON line. Needs torch and numpy: `pip install torch numpy`.
"""
import argparse
import json
import math
import resource
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2615)
LUMA = (0.2989, 0.587, 0.114)


def convolution(inputs, outputs, size, stride=1):
    return [nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs)]


class Residual(nn.Module):
    """He et al. 2016: two 3x3 convolutions around a shortcut."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            *convolution(inputs, outputs, 3, stride), nn.ReLU(inplace=True), *convolution(outputs, outputs, 3)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*convolution(inputs, outputs, 1, stride))

    def forward(self, x):
        return F.relu(self.body(x) + self.shortcut(x), inplace=True)


def encoder(width):
    layers, inputs = [*convolution(3, width, 3), nn.ReLU(inplace=True)], width
    for stage in range(4):
        for index in range(2):
            outputs = width << stage
            layers.append(Residual(inputs, outputs, 2 if stage and not index else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class SimSiam(nn.Module):
    """Chen and He 2021, with a projector of two layers: d -> 4 d -> 4 d, and a predictor 4 d -> d -> 4 d, on d features."""

    def __init__(self, width):
        super().__init__()
        features = 8 * width
        wide = 4 * features
        self.encoder = encoder(width)
        self.projector = nn.Sequential(
            nn.Linear(features, wide, bias=False), nn.BatchNorm1d(wide), nn.ReLU(inplace=True),
            nn.Linear(wide, wide, bias=False), nn.BatchNorm1d(wide),
        )
        self.predictor = nn.Sequential(
            nn.Linear(wide, features, bias=False), nn.BatchNorm1d(features), nn.ReLU(inplace=True),
            nn.Linear(features, wide),
        )

    def forward(self, first, second):
        z = [self.projector(self.encoder(view)) for view in (first, second)]
        p = [self.predictor(projection) for projection in z]
        likeness = [F.cosine_similarity(a.float(), b.detach().float()).mean() for a, b in ((p[0], z[1]), (p[1], z[0]))]
        return -sum(likeness) / 2


def make_views(images, size):
    """One random view of each uint8 image (n, 3, h, w): crop, flip, jitter, greyscale, normalise; drawn per image."""
    count, device = images.shape[0], images.device

    def draw(low, high):
        return torch.rand(count, device=device) * (high - low) + low

    area, shape = draw(0.2, 1.0), draw(math.log(3 / 4), math.log(4 / 3)).exp()
    half_width, half_height = (area * shape).sqrt().clamp(max=1), (area / shape).sqrt().clamp(max=1)
    mirror = torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    affine = torch.zeros(count, 2, 3, device=device)
    affine[:, 0, 0], affine[:, 0, 2] = half_width * mirror, draw(-1, 1) * (1 - half_width)
    affine[:, 1, 1], affine[:, 1, 2] = half_height, draw(-1, 1) * (1 - half_height)
    grid = F.affine_grid(affine, (count, 3, size, size), align_corners=False)
    x = F.grid_sample(images.float() / 255, grid, padding_mode="border", align_corners=False)

    def column(values):
        return values[:, None, None, None]

    def channels(values):
        return torch.tensor(values, device=device)[None, :, None, None]

    def luma(y):
        return (y * channels(LUMA)).sum(1, keepdim=True)

    jittered = (x * column(draw(0.6, 1.4))).clamp(0, 1)
    for reference in (lambda y: luma(y).mean((2, 3), keepdim=True), luma):
        factor, anchor = column(draw(0.6, 1.4)), reference(jittered)
        jittered = (anchor + factor * (jittered - anchor)).clamp(0, 1)
    x = torch.where(column(draw(0, 1) < 0.8), jittered, x)
    x = torch.where(column(draw(0, 1) < 0.2), luma(x).expand_as(x), x)
    return (x - channels(MEAN)) / channels(STD)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=["train", "embed"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--augment", action="store_true", help="views are made within the step")
    parser.add_argument("--strategy", choices=["lump", "finetune"], default="lump")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    return parser.parse_args()


def training_step(options, network, layout, cast):
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    lump = options.strategy == "lump"
    shape = (options.batch, 3, options.size, options.size)
    sources = [torch.randint(0, 256, shape, dtype=torch.uint8, device=options.device) for _ in range(1 + lump)]
    run = torch.compile(network) if options.compile else network

    def views():
        return [make_views(s, options.size).contiguous(memory_format=layout) for s in sources for _ in range(2)]

    ready = views()

    def step():
        with cast():
            v = views() if options.augment else ready
            if lump:
                weight = torch.distributions.Beta(0.4, 0.4).sample().item()
                v = [weight * v[i] + (1 - weight) * v[i + 2] for i in range(2)]
            loss = run(v[0], v[1])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def embedding_step(options, network, layout, cast):
    network = network.encoder.eval()
    run = torch.compile(network) if options.compile else network
    shape = (options.batch, 3, options.size, options.size)
    images = torch.randn(shape, device=options.device).contiguous(memory_format=layout)

    def step():
        with torch.no_grad(), cast():
            run(images)

    return step


def main():
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    cuda = options.device.startswith("cuda")
    if cuda:
        torch.backends.cudnn.benchmark = True
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    network = SimSiam(options.width).to(options.device).to(memory_format=layout)

    def cast():
        return torch.autocast(options.device.split(":")[0], dtype=torch.bfloat16, enabled=options.dtype == "bf16")

    make = training_step if options.subject == "train" else embedding_step
    step = make(options, network, layout, cast)
    seconds = []
    for index in range(options.warmup + options.steps):
        start = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        if index >= options.warmup:
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report = dict(
        vars(options), peer=f"torch {torch.__version__}", threads=torch.get_num_threads(), step_seconds_median=median,
        images_per_second=options.batch / median, peak_bytes=peak,
    )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
