"""Forward, loss and optimizer steps over packed documents, by Hugging Face and PyTorch alone.

Packed documents are defined as follows: each document goes through the model by itself, with positions from 0, and
the results are concatenated. N tokens in all, V vocabulary entries, C model dim.
"""

import copy

import torch
import torch.nn.functional as F


def forward(model, tokens, lengths, types=None):
    """Logits [N, V] of i64 tokens [N]; `types` are BERT's segment ids [N]."""
    return torch.cat([model(**inputs).logits[0] for inputs in _documents(tokens, lengths, types)])


def hidden(model, tokens, lengths, types=None):
    """Last hidden state [N, C]: what the head reads, after the final norm where the family has one."""
    trunk = model.base_model
    return torch.cat([trunk(**inputs).last_hidden_state[0] for inputs in _documents(tokens, lengths, types)])


def mean_loss(logits, targets):
    """Sum of cross-entropies over the targets that are not -1, divided by their number."""
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum") / (targets >= 0).sum()


def losses(model, optimizer, tokens, targets, lengths, types=None):
    """Loss before each update, one update per row of tokens [steps, N]; a copy of `model` is trained. f32 [steps]"""
    model = copy.deepcopy(model)
    optimizer = OPTIMIZERS[optimizer](list(model.parameters()))
    seen = []
    for row, wanted in zip(tokens, targets):
        loss = mean_loss(forward(model, row, lengths, types), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.detach())
    return torch.stack(seen)


def _documents(tokens, lengths, types):
    parts = [{"input_ids": part[None]} for part in tokens.split(lengths)]
    if types is not None:
        for inputs, part in zip(parts, types.split(lengths)):
            inputs["token_type_ids"] = part[None]
    return parts


def _adamw(parameters):
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)


def _sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


OPTIMIZERS = {"adamw": _adamw, "sgd": _sgd}
