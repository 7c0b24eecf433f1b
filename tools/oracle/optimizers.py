"""Twenty updates of a (2, 4) parameter by torch's own Adam (coupled decay) and AdamW, clipped, with a rate that changes.

    python tools/oracle/optimizers.py tests/golden/adam.json

The file has the first weights, the gradients [20, 8] and rates [20], and for each optimizer the weights after each
update [20, 8]. All in f32; decimal numbers that give the same bits again.
"""

import json
import sys

import torch

STEPS, SHAPE, CLIP = 20, (2, 4), 2.0
SETTINGS = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def main(path):
    torch.manual_seed(3)
    start = torch.randn(SHAPE)
    # Every third gradient is small, so that both clipped and whole ones occur, and one value never has any.
    gradients = torch.randn(STEPS, *SHAPE) * torch.tensor([1.0, 2.0, 0.01]).repeat(7)[:STEPS, None, None]
    gradients[:, 1, 2] = 0.0
    rates = [1e-2 * (1 + i % 5) for i in range(STEPS)]
    out = {"settings": SETTINGS, "clip": CLIP, "rates": rates, "start": flat(start), "gradients": flat(gradients)}
    for name, optimizer in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        w = torch.nn.Parameter(start.clone())
        optimizer = optimizer([w], lr=0.0, **SETTINGS)
        after = []
        for gradient, rate in zip(gradients, rates):
            optimizer.param_groups[0]["lr"] = rate
            w.grad = gradient.clone()
            torch.nn.utils.clip_grad_norm_([w], CLIP)
            optimizer.step()
            after.append(w.detach().clone())
        out[name] = flat(torch.stack(after))
    with open(path, "w") as file:
        json.dump(out, file)
        file.write("\n")


def flat(tensor):
    return tensor.flatten().tolist()


if __name__ == "__main__":
    main(sys.argv[1])
