"""Six updates of two matrices by Muon, with a rate that changes: by the equations in float64, and by torch.optim.Muon,
which orthogonalises in bfloat16.

    python tools/oracle/muon.py tests/golden/muon.json

For each case (shape, settings): the first weights, the gradients [6, rows * cols], the rates [6], and the weights after
each update, `f64` and `torch` [6, rows * cols]. Gradients have singular values from 1 down to 0.03.
"""

import json
import math
import sys

import torch

STEPS = 6
A, B, C = 3.4445, -4.7750, 2.0315
CASES = {
    "wide": ((4, 10), {"momentum": 0.95, "nesterov": True, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}),
    "tall": ((9, 5), {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0, "adjust_lr_fn": "original"}),
}


def orthogonal(x):
    """Newton-Schulz, five steps."""
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.T if tall else x


def equations(start, gradients, rates, momentum, nesterov, weight_decay, adjust_lr_fn):
    w, m, after = start.double(), torch.zeros_like(start, dtype=torch.float64), []
    rows, cols = w.shape
    adjust = {"original": math.sqrt(max(1, rows / cols)), "match_rms_adamw": 0.2 * math.sqrt(max(rows, cols))}
    for g, rate in zip(gradients.double(), rates):
        m = momentum * m + g
        u = g + momentum * m if nesterov else m
        w = w * (1 - rate * weight_decay) - rate * adjust[adjust_lr_fn] * orthogonal(u)
        after.append(w.clone())
    return torch.stack(after)


def by_torch(start, gradients, rates, settings):
    w = torch.nn.Parameter(start.clone())
    optimizer, after = torch.optim.Muon([w], **settings), []
    for g, rate in zip(gradients, rates):
        optimizer.param_groups[0]["lr"] = rate
        w.grad = g.clone()
        optimizer.step()
        after.append(w.detach().clone())
    return torch.stack(after)


def gradient(rows, cols):
    u, _ = torch.linalg.qr(torch.randn(rows, min(rows, cols), dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(cols, min(rows, cols), dtype=torch.float64))
    return (u * torch.logspace(0, -1.5, min(rows, cols), dtype=torch.float64)) @ v.T


def main(path):
    torch.manual_seed(11)
    out = {}
    for name, ((rows, cols), settings) in CASES.items():
        start = torch.randn(rows, cols)
        gradients = torch.stack([gradient(rows, cols).float() for _ in range(STEPS)])
        rates = [1e-2 * (1 + i % 3) for i in range(STEPS)]
        exact, torchs = equations(start, gradients, rates, **settings), by_torch(start, gradients, rates, settings)
        print(name, "torch is off by", float((torchs - exact).abs().max()), "of", float((exact[-1] - start).abs().max()))
        values = {"start": start, "gradients": gradients, "f64": exact.float(), "torch": torchs}
        out[name] = {"shape": [rows, cols], "settings": settings, "rates": rates}
        out[name] |= {key: [float(f"{x:.9g}") for x in value.flatten().tolist()] for key, value in values.items()}
    with open(path, "w") as file:
        json.dump(out, file)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
