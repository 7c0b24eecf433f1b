"""Check an exported Hugging Face directory against a golden case, with Hugging Face as the reader.

    python tools/oracle/check_export.py DIR REF_DIR

DIR must load with no tensor missing or left over, give REF_DIR's loss on REF_DIR's golden tokens (1e-5 relative), and
hold REF_DIR/model.safetensors byte for byte. One line per finding; exit status 1 when any is a difference.
"""

import argparse
import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file

import reference

TOLERANCE = 1e-5


def check_loss(folder, golden):
    """Yields (ok, finding) about loading `folder` and about its loss on the golden tokens."""
    architecture = json.loads((folder / "config.json").read_text()).get("architectures", ["none"])[0]
    masked = architecture.endswith("ForMaskedLM")
    auto = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
    model, report = auto.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    loaded = type(model).__name__
    yield loaded == architecture, f"architecture: config.json says {architecture}, loaded as {loaded}"
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(map(str, report[kind]))
        yield not names, f"{kind.replace('_', ' ')}: {', '.join(names) or 'none'}"

    types = golden["token_types"].long() if "token_types" in golden else None
    with torch.no_grad():
        logits = reference.forward(model.eval(), golden["tokens"].long(), golden["lengths"].tolist(), types)
    loss, wanted = reference.mean_loss(logits, golden["targets"].long()).item(), golden["loss"].item()
    error = abs(loss - wanted) / abs(wanted)
    yield error <= TOLERANCE, f"loss: {loss:.8f}, reference {wanted:.8f}, relative error {error:.2e}"


def check_tensors(folder, reference_file):
    """Yields (ok, finding): one per differing tensor, and one for all that are the same."""
    # An index names the shards that count; without one there is a single file.
    index = folder / "model.safetensors.index.json"
    placed = json.loads(index.read_text())["weight_map"] if index.exists() else None
    files = sorted(set(placed.values())) if placed else ["model.safetensors"]
    ours = {}
    for name in files:
        for key, value in load_file(folder / name).items():
            if key in ours or (placed and placed.get(key) != name):
                yield False, f"{key}: in {name}, but the index places it in {placed.get(key)}"
            ours[key] = value
    theirs = load_file(reference_file)
    for key in sorted(theirs.keys() - ours.keys()):
        yield False, f"{key}: not in the export"
    for key in sorted(ours.keys() - theirs.keys()):
        yield False, f"{key}: not in the reference"
    same = 0
    for key in sorted(ours.keys() & theirs.keys()):
        a, b = ours[key], theirs[key]
        if a.dtype != b.dtype or a.shape != b.shape:
            yield False, f"{key}: {a.dtype} {list(a.shape)}, reference {b.dtype} {list(b.shape)}"
        elif not torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)):
            yield False, f"{key}: bytes differ, largest difference {(a.double() - b.double()).abs().max():.3e}"
        else:
            same += 1
    yield same == len(theirs), f"tensors: {same} of {len(theirs)} the same byte for byte"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, metavar="DIR")
    parser.add_argument("reference", type=pathlib.Path, metavar="REF_DIR")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()

    golden = load_file(args.reference / "golden.safetensors")
    bad = 0
    for findings in (check_tensors(args.folder, args.reference / "model.safetensors"), check_loss(args.folder, golden)):
        for ok, finding in findings:
            print(f"{'ok  ' if ok else 'DIFF'} {finding}")
            bad += not ok
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
