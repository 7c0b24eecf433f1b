"""A teacher and a student of Hugging Face: the loss with the targets and the teacher, and its gradients, by PyTorch in float64.

    python tools/oracle/distill.py tests/golden/distill.json

The models and tokens are those of tests/golden/<case> (golden.py). For each case: ce and kd (the distance from the teacher at
temperature tau), means over the targets; loss = (1 - omega) * ce + omega * kd; of its gradient the norm, and the sum and the norm
of each parameter's.
"""

import json
import pathlib
import sys

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file

import reference

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
# student, teacher, distance, tau, omega
CASES = [
    ("gpt2", "llama", "kd", 0.25, 0.667),
    ("llama", "gpt2", "kd", 1.0, 1.0),
    ("qwen3", "llama-tied", "rkl", 2.0, 0.5),
    ("llama-tied", "qwen2", "js", 0.5, 0.3),
]


def load(name):
    config = json.loads((ROOT / name / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0])
    return model.from_pretrained(ROOT / name, attn_implementation="eager", dtype=torch.float64).eval()


def distance(kind, p, q):
    """Of log-probabilities [N, V] of teacher and student: [N]."""
    if kind == "kd":
        return -(p.exp() * q).sum(-1)
    if kind == "rkl":
        return F.kl_div(p, q, reduction="none", log_target=True).sum(-1)
    m = torch.logsumexp(torch.stack([p, q]), 0) - torch.log(torch.tensor(2.0, dtype=p.dtype))
    return 0.5 * sum(F.kl_div(m, x, reduction="none", log_target=True).sum(-1) for x in (p, q))


def case(student, teacher, kind, tau, omega):
    golden = load_file(ROOT / student / "golden.safetensors")
    tokens, targets = golden["tokens"].long(), golden["targets"].long()
    lengths = golden["lengths"].tolist()
    model, counted = load(student), targets >= 0
    with torch.no_grad():
        p = torch.log_softmax(reference.forward(load(teacher), tokens, lengths) / tau, -1)
    logits = reference.forward(model, tokens, lengths)
    ce = reference.mean_loss(logits, targets)
    kd = distance(kind, p, torch.log_softmax(logits, -1))[counted].sum() / counted.sum()
    loss = (1 - omega) * ce + omega * kd
    loss.backward()
    gradients = {name: w.grad for name, w in model.named_parameters()}
    return {
        "student": student, "teacher": teacher, "loss_kind": kind, "temperature": tau, "weight": omega,
        "ce": ce.item(), "kd": kd.item(), "loss": loss.item(),
        "norm": torch.stack([g.norm() for g in gradients.values()]).norm().item(),
        "gradients": {name: [g.sum().item(), g.norm().item()] for name, g in gradients.items()},
    }


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    out = [case(*c) for c in CASES]
    pathlib.Path(sys.argv[1]).write_text(json.dumps(out, indent=1) + "\n")
    for c in out:
        print(f"{c['teacher']} teaches {c['student']} by {c['loss_kind']}: loss {c['loss']:.6f}, norm {c['norm']:.6f}")


main()
