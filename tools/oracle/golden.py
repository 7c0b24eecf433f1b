"""Write tests/golden/<case>/: a Hugging Face directory and what Hugging Face and PyTorch compute with it.

    python tools/oracle/golden.py [--out DIR] [case ...]

golden.safetensors holds, for N tokens in `lengths` packed documents (see reference.py):
    tokens, targets i32 [N] (-1 = no target); lengths i32 [documents]; token_types i32 [N] (BERT only)
    logits f32 [N, V]; hidden f32 [N, C]; loss f32 [1]; grad.<parameter> f32, the gradient of that loss
    train_tokens, train_targets i32 [20, N]; adamw_losses, sgd_losses f32 [20], each before that step's update
`lengths` and `token_types` hold for the training batches too.
"""

import argparse
import json
import logging
import pathlib

import torch
import transformers
from safetensors.torch import load_file, save_file

import reference
from cases import CASES, LENGTHS, TRAIN_STEPS, batches, build, token_types

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"


def write_case(name, out):
    """Compute and write one case; returns its folder."""
    model, rng = build(name)
    tokens, targets = batches(model, rng, TRAIN_STEPS + 1)
    types = token_types(rng) if model.config.model_type == "bert" else None

    logits = reference.forward(model, tokens[0], LENGTHS, types)
    loss = reference.mean_loss(logits, targets[0])
    loss.backward()
    golden = {
        "tokens": tokens[0],
        "lengths": torch.tensor(LENGTHS),
        "targets": targets[0],
        "train_tokens": tokens[1:],
        "train_targets": targets[1:],
    }
    if types is not None:
        golden["token_types"] = types
    golden = {key: value.to(torch.int32).contiguous() for key, value in golden.items()}
    golden |= {f"grad.{key}": parameter.grad for key, parameter in model.named_parameters()}
    with torch.no_grad():
        golden["hidden"] = reference.hidden(model, tokens[0], LENGTHS, types)
    golden["logits"] = logits.detach()
    golden["loss"] = loss.detach().reshape(1)
    for optimizer in reference.OPTIMIZERS:
        golden[f"{optimizer}_losses"] = reference.losses(model, optimizer, tokens[1:], targets[1:], LENGTHS, types)

    folder = out / name
    model.save_pretrained(folder)
    save_file(golden, folder / "golden.safetensors")
    if model.config.model_type == "llama" and model.config.rope_parameters["rope_type"] == "llama3":
        write_v4_config(folder)
    return folder


def write_v4_config(folder):
    """config.v4.json beside config.json: the same model in the keys that transformers 4 wrote."""
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.45.0"
    (folder / "config.v4.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def verify(folder):
    """Read one written case back and compare it with itself: names, logits, loss, first updates. Returns a summary."""
    golden = load_file(folder / "golden.safetensors")
    weights = load_file(folder / "model.safetensors")
    grads = {key.removeprefix("grad.") for key in golden if key.startswith("grad.")}
    assert grads == weights.keys(), f"{folder.name}: {grads ^ weights.keys()} only among the gradients or the weights"
    flat = [key for key in grads if not golden[f"grad.{key}"].any()]
    assert not flat, f"{folder.name}: all-zero gradients prove nothing: {flat}"

    model_class = getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])
    model = model_class.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).train()
    # Loaded weights lie where the file has them; PyTorch's kernels round differently on unaligned memory.
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    lengths = golden["lengths"].tolist()
    types = golden["token_types"].long() if "token_types" in golden else None
    with torch.no_grad():
        logits = reference.forward(model, golden["tokens"].long(), lengths, types)
    loss = reference.mean_loss(logits, golden["targets"].long())
    assert torch.equal(logits, golden["logits"]) and loss == golden["loss"], f"{folder.name}: reloaded model differs"
    for optimizer in reference.OPTIMIZERS:
        batch = golden["train_tokens"].long(), golden["train_targets"].long()
        again = reference.losses(model, optimizer, *batch, lengths, types)
        assert torch.equal(again, golden[f"{optimizer}_losses"]), f"{folder.name}: {optimizer} losses differ"
    ends = (f"{kind} ends at {golden[f'{kind}_losses'][-1]:.4f}" for kind in reference.OPTIMIZERS)
    return f"{len(grads)} parameters, loss {loss:.6f}, {', '.join(ends)}"


def write_sharded(out):
    """llama-sharded: the llama case's weights in several files with an index."""
    model = transformers.LlamaForCausalLM.from_pretrained(out / "llama", dtype=torch.float32)
    folder = out / "llama-sharded"
    model.save_pretrained(folder, max_shard_size="200KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) >= 3, f"llama-sharded: {len(shards)} shards, 3 wanted"
    joined = {key: value for shard in shards for key, value in load_file(shard).items()}
    whole = load_file(out / "llama" / "model.safetensors")
    assert joined.keys() == whole.keys() and all(torch.equal(joined[key], whole[key]) for key in whole)
    return f"{len(shards)} shards, {len(joined)} tensors"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT)
    parser.add_argument("case", nargs="*", help=f"default: all of {', '.join(CASES)} and llama-sharded")
    args = parser.parse_args()
    wanted = args.case or [*CASES, "llama-sharded"]
    if unknown := set(wanted) - {*CASES, "llama-sharded"}:
        parser.error(f"unknown case: {', '.join(sorted(unknown))}")

    # One thread and deterministic kernels: the same machine writes the same bytes every time.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    for name in wanted:
        summary = write_sharded(args.out) if name == "llama-sharded" else verify(write_case(name, args.out))
        print(f"{name}: {summary}")


if __name__ == "__main__":
    main()
