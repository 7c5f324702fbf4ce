#!/usr/bin/env python3
"""Writes the numbers of a reference implementation, PyTorch in float64, that tests/lumpd/parity.rs compares lumpd with.

    python tests/parity/make_reference.py

makes network.safetensors, objectives.safetensors and sgd.safetensors beside itself. Needs torch; the numbers at hand are those
of torch 2.15. Everything is computed by torch's own operators: the network, batch norm, losses and optimiser below are written
with torch.nn and torch.optim, not with lumpd's formulas.
"""

import json
import struct
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

torch.set_default_dtype(torch.float64)
torch.manual_seed(2026)
HERE = Path(__file__).parent
WIDTH, SIDE, BATCH = 2, 16, 5


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """The CIFAR form: 3x3 stem of stride 1, no max-pool, no classifier."""

    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage in range(4):
            outputs = width << stage
            stride = 1 if stage == 0 else 2
            blocks = nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))
            setattr(self, f"layer{stage + 1}", blocks)
            inputs = outputs

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x.mean((2, 3))


class Layer(nn.Module):
    def __init__(self, inputs, outputs, norm, relu):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=not norm)
        self.norm = nn.BatchNorm1d(outputs) if norm else None
        self.relu = relu

    def forward(self, x):
        x = self.linear(x)
        x = x if self.norm is None else self.norm(x)
        return F.relu(x) if self.relu else x


class Head(nn.Module):
    """Projector and predictor as (outputs, norm, relu) layers."""

    def __init__(self, features, projector, predictor=()):
        super().__init__()
        self.projector, self.predictor = nn.Sequential(), nn.Sequential()
        for part, layers in ((self.projector, projector), (self.predictor, predictor)):
            for layer in layers:
                part.append(Layer(features, *layer))
                features = layer[0]

    def named(self, prefix):
        """Parameters under lumpd's names."""
        for name, value in self.named_parameters():
            yield f"{prefix}{name.replace('.linear.', '.')}", value


def head_of(objective, features):
    width = 4 * features
    if objective == "simsiam":
        return Head(features, [(width, True, True), (width, True, False)], [(width // 4, True, True), (width, False, False)])
    if objective == "barlow":
        return Head(features, [(width, True, True), (width, True, False)])
    # Narrower than lumpd's own, to keep the file small: the loss does not depend on it.
    return Head(features, [(24, True, True), (8, False, False)])


def loss_of(objective, head, f1, f2):
    z1, z2 = head.projector(f1), head.projector(f2)
    if objective == "simsiam":
        p1, p2 = head.predictor(z1), head.predictor(z2)
        distance = lambda p, z: -F.cosine_similarity(p, z.detach(), dim=1).mean()
        return distance(p1, z2) / 2 + distance(p2, z1) / 2
    if objective == "barlow":
        z1, z2 = ((z - z.mean(0)) / z.std(0) for z in (z1, z2))
        c = z1.T @ z2 / len(z1)
        on = (torch.diagonal(c) - 1).pow(2).sum()
        off = (c - torch.diag(torch.diagonal(c))).pow(2).sum()
        return on + 5e-3 * off
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = z @ z.T / 0.5
    logits.fill_diagonal_(float("-inf"))
    n = len(z1)
    return F.cross_entropy(logits, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]))


def perturb(module):
    """Moves batch norm off the identity, so that its parameters matter, and rounds all to what float32 holds."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            parameter.copy_(parameter.float())


def keep(out, prefix, named, dtype=torch.float64):
    for name, value in named:
        if "num_batches_tracked" not in name:
            out[f"{prefix}{name}"] = value.detach().clone().to(dtype).contiguous()


def save_file(tensors, path):
    """Writes safetensors: length of the header, header, values."""
    header, values = {}, b""
    for name, tensor in sorted(tensors.items()):
        data = tensor.numpy().tobytes()
        kind = {torch.float64: "F64", torch.float32: "F32"}[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(values), len(values) + len(data)]}
        values += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)


def network():
    """A forward and backward pass of two views, and one whole SimSiam step with SGD."""
    out = {}
    net, head = ResNet18(WIDTH), head_of("simsiam", 8 * WIDTH)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    perturb(net)
    perturb(head)
    first, second = torch.randn(2, BATCH, SIDE, SIDE, 3).float().double()
    # float32 holds what goes in without loss.
    keep(out, "before.", net.state_dict().items(), torch.float32)
    keep(out, "before.head.", head.named(""), torch.float32)
    keep(out, "", [("first", first), ("second", second)], torch.float32)

    optimiser = torch.optim.SGD([*net.parameters(), *head.parameters()], lr=0.05, momentum=0.9, weight_decay=5e-4)
    f1, f2 = (net(view.permute(0, 3, 1, 2)) for view in (first, second))
    out["features"] = torch.cat([f1, f2]).detach()
    loss = loss_of("simsiam", head, f1, f2)
    out["loss"] = loss.detach()
    loss.backward()
    keep(out, "gradient.", ((name, p.grad) for name, p in net.named_parameters()))
    optimiser.step()
    keep(out, "after.", net.state_dict().items())
    keep(out, "after.head.", list(head.named(""))[-2:])
    with torch.no_grad():
        out["embedding"] = net.eval()(first.permute(0, 3, 1, 2))
    save_file(out, HERE / "network.safetensors")


def objectives():
    """Each loss and its gradients on random features."""
    out = {}
    features = 4
    for objective in ("simsiam", "barlow", "simclr"):
        head = head_of(objective, features)
        perturb(head)
        f1, f2 = (torch.randn(6, features, requires_grad=True) for _ in range(2))
        loss = loss_of(objective, head, f1, f2)
        loss.backward()
        keep(out, f"{objective}.head.", head.named(""))
        tensors = {"first": f1, "second": f2, "loss": loss, "first.gradient": f1.grad, "second.gradient": f2.grad}
        keep(out, f"{objective}.", tensors.items())
        keep(out, f"{objective}.gradient.", ((name, parameter.grad) for name, parameter in head.named("")))
    save_file(out, HERE / "objectives.safetensors")


def sgd():
    """Seven steps of momentum and weight decay along given gradients."""
    parameter = torch.randn(33, requires_grad=True)
    out = {"parameter.0": parameter.detach().clone(), "gradients": torch.randn(7, 33)}
    optimiser = torch.optim.SGD([parameter], lr=0.03, momentum=0.9, weight_decay=5e-4)
    for step, gradient in enumerate(out["gradients"]):
        parameter.grad = gradient.clone()
        optimiser.step()
        out[f"parameter.{step + 1}"] = parameter.detach().clone()
    save_file(out, HERE / "sgd.safetensors")


if __name__ == "__main__":
    network()
    objectives()
    sgd()
    for path in sorted(HERE.glob("*.safetensors")):
        print(path.name, path.stat().st_size)
