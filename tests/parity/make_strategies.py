#!/usr/bin/env python3
"""Writes the numbers of PyTorch, in float64, that tests/lumpd/parity_strategies.rs compares lumpd's strategies with.

    python tests/parity/make_strategies.py

makes strategies.safetensors beside itself. Needs torch; the numbers at hand are those of torch 2.15. The losses are torch's own
operators, the path integral of synaptic intelligence is taken along steps of torch.optim.SGD.
"""

import torch
import torch.nn.functional as F

from make_reference import HERE, save_file

torch.manual_seed(2027)


def of(loss, *leaves):
    for leaf in leaves:
        leaf.grad = None
    loss.backward()
    return loss.detach(), [leaf.grad.clone() for leaf in leaves]


def distillation(out):
    """What CaSSLe takes between predictions and constant targets, for each objective."""
    n, width = 6, 5
    predicted, target = torch.randn(n, width, requires_grad=True), torch.randn(n, width)
    out["distillation.predicted"], out["distillation.target"] = predicted.detach(), target

    losses = {"simsiam": -F.cosine_similarity(predicted, target, dim=1).mean()}
    a, b = ((z - z.mean(0)) / z.std(0) for z in (predicted, target))
    c = a.T @ b / n
    diagonal = torch.diagonal(c)
    losses["barlow"] = (diagonal - 1).pow(2).sum() + 5e-3 * (c - torch.diag(diagonal)).pow(2).sum()
    z = F.normalize(torch.cat([predicted, target]), dim=1)
    logits = (z @ z.T / 0.5).fill_diagonal_(float("-inf"))
    losses["simclr"] = F.cross_entropy(logits, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]))
    for name, loss in losses.items():
        out[f"distillation.{name}.loss"], (out[f"distillation.{name}.gradient"],) = of(loss, predicted)


def cross_entropy(out):
    logits, labels = torch.randn(7, 4, requires_grad=True), torch.tensor([0, 3, 1, 1, 2, 0, 3])
    out["entropy.logits"], out["entropy.labels"] = logits.detach(), labels.double()
    out["entropy.loss"], (out["entropy.gradient"],) = of(F.cross_entropy(logits, labels), logits)


def projection(out):
    """A-GEM: the nearest vector to g that does not point against r, found as torch's own least squares."""
    gradient, reference = torch.randn(9), torch.randn(9)
    if gradient @ reference > 0:
        reference = -reference
    along = torch.linalg.lstsq(reference[:, None], gradient[:, None]).solution[0, 0]
    out["projection.gradient"], out["projection.reference"] = gradient, reference
    out["projection.result"] = gradient - along * reference


def main():
    out = {}
    distillation(out)
    cross_entropy(out)
    projection(out)
    save_file({name: tensor.contiguous() for name, tensor in out.items()}, HERE / "strategies.safetensors")


if __name__ == "__main__":
    main()
