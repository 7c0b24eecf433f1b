"""Write tests/golden/megatron/: files of Megatron's own writer and hashes of the samples of its own datasets.

    python tools/oracle/megatron_goldens.py [--out DIR]

Needs megatron-core (requirements.txt). Everything comes out of its IndexedDatasetBuilder and, through
BlendedMegatronDatasetBuilder, of its GPTDataset and BlendedDataset.

- tiny-u16, tiny-i32 .bin and .idx: documents of several sequences, empty ones, ones of one token.
- tiny.json: their documents, as lists of sequences.
- empty-u16, empty-i32 .bin and .idx: texts as bytes with an end-of-document token (256) after each that is not empty, as
  Megatron's tools/preprocess_data.py --append-eod hands them to the builder: an empty text is a document of no sequence.
- empty.json: these texts.
- samples.json: hashes of the files of the cases' corpora ("files") and of two plain ones ("writer"); for each case what Megatron was asked for, how many samples and epochs it built, whether it shuffled the
  last epoch apart, and for each 1000 of the first 10,000 samples the XXH3 (64 bits) of their T + 1 tokens each, as
  little-endian int64.

The corpora of the cases are made by a rule that the test repeats (`word`, `corpus`), so their files are not kept; their
hashes are.
"""

import argparse
import json
import logging
import pathlib
import tempfile
import warnings

import numpy
import torch
import xxhash

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

ROOT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "megatron"
FIRST, BLOCK = 10_000, 1000


class Tokenizer:
    """What GPTDatasetConfig asks of a tokenizer."""

    def __init__(self, vocab):
        self.vocab_size, self.eod, self.unique_identifiers = vocab, vocab - 1, {"vocab": vocab}


def word(*parts):
    """SplitMix64 of the parts, one after another. The last may be an array."""
    z = numpy.uint64(0)
    for part in parts:
        z = numpy.asarray(part, dtype=numpy.uint64) + numpy.uint64(0x9E3779B97F4A7C15) + (z << numpy.uint64(6))
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    return z


# Number, sequences, most tokens of a sequence, vocabulary. Every 11th sequence is empty, every 13th has one token.
CORPORA = {
    "a": (1, 5000, 120, 50257),
    "b": (2, 900, 700, 70000),
    "c": (3, 64, 300, 50257),
    "d": (4, 3000, 40, 50257),
}


def sequences(number, count, most, vocab):
    lengths = [0 if i % 11 == 5 else 1 if i % 13 == 7 else int(word(number, i) % most) + 2 for i in range(count)]
    return [(word(number, i, numpy.arange(n)) % numpy.uint64(vocab)).astype(numpy.int64) for i, n in enumerate(lengths)]


def write(prefix, vocab, documents):
    """Each document a list of sequences, each of these int64 tokens."""
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(vocab))
    for document in documents:
        tokens = numpy.concatenate([numpy.zeros(0, numpy.int64), *document])
        builder.add_document(torch.from_numpy(tokens), [len(s) for s in document])
    builder.finalize(f"{prefix}.idx")


def corpus(folder, name):
    """Documents of 1, 2 and 3 sequences in turn."""
    number, count, most, vocab = CORPORA[name]
    rest, documents = sequences(number, count, most, vocab), []
    while rest:
        n = len(documents) % 3 + 1
        documents.append(rest[:n])
        rest = rest[n:]
    write(folder / name, vocab, documents)


def plain(folder, name, vocab):
    """Documents of one sequence each, as the preprocessing tool writes them."""
    lengths = [1 if i % 7 == 0 else int(word(9, i) % 50) + 1 for i in range(1000)]
    write(folder / name, vocab, [[(word(9, i, numpy.arange(n)) % numpy.uint64(vocab)).astype(numpy.int64)] for i, n in enumerate(lengths)])


def tiny(out):
    r = lambda *n: numpy.array(n, dtype=numpy.int64)
    documents = [[r(1, 2, 3)], [r()], [r(65499)], [], [r(4), r(), r(5, 6, 7, 8, 9)], [r(10, 11), r(12)], [r()], [r(13)], []]
    for name, vocab in (("tiny-u16", 65499), ("tiny-i32", 65500)):
        own = [[s if vocab == 65500 else s % 65499 for s in document] for document in documents]
        write(out / name, vocab, own)
        read = IndexedDataset(str(out / name))
        assert [read[i].tolist() for i in range(len(read))] == [s.tolist() for d in own for s in d]
    text = json.dumps([[s.tolist() for s in document] for document in documents])
    (out / "tiny.json").write_text(text + "\n")



def empty(out):
    texts = ["", "", "two words", "", "x", "\u00e9\n", "", "", "end", ""]
    for name, vocab in (("empty-u16", 257), ("empty-i32", 65500)):
        # Encoder.encode in tools/preprocess_data.py: sentences without ids are dropped, and only documents with ids
        # get an end; add_document is called for every document.
        ids = [[*text.encode(), 256] if text else [] for text in texts]
        write(out / name, vocab, [[numpy.array(i, dtype=numpy.int64)] if i else [] for i in ids])
    (out / "empty.json").write_text(json.dumps(texts) + "\n")


# Corpora with their weights, split, seed, T, samples asked for.
CASES = [
    # One corpus: one epoch, and many.
    (["a"], None, "969,30,1", 1234, 32, 8_000),
    (["a"], None, "949,50,1", 0, 128, 10_000),
    (["a"], None, "1,0,0", 4294967295, 1024, 10_000),
    (["b"], None, "969,30,1", 1234, 64, 4_000),
    (["b"], None, "949,50,1", 77, 256, 12_345),
    (["c"], None, "969,30,1", 1234, 16, 2_500),
    (["c"], None, "0.5,0.3,0.2", 5, 512, 500),
    # The last epoch apart, and not.
    (["d"], None, "1,0,0", 1234, 32, 2_500),
    (["d"], None, "1,0,0", 1234, 32, 3_300),
    (["d"], None, "1,0,0", 1234, 32, 30_000),
    (["d"], None, "1,0,0", 77, 32, 18_900),
    # A sample longer than an epoch.
    (["c"], None, "1,1,1", 9, 16384, 40),
    # Blends.
    (["a", "d", "c"], [0.5, 0.25, 0.25], "969,30,1", 1234, 32, 10_000),
    (["a", "d", "c"], [30, 70, 1], "949,50,1", 0, 64, 20_000),
    (["c", "a", "d"], [0.1, 0.2, 0.7], "1,0,0", 77, 128, 12_000),
    (["d", "a"], [1, 2], "969,30,1", 5, 16, 11_000),
    (["d", "c"], [0.999, 0.001], "969,30,1", 5, 32, 9_000),
]


def case(folder, names, weights, split, seed, t, samples):
    paths = [str(folder / name) for name in names]
    config = GPTDatasetConfig(
        random_seed=seed,
        sequence_length=t,
        blend=(paths, weights),
        split=split,
        tokenizer=Tokenizer(max(CORPORA[name][3] for name in names)),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    train = BlendedMegatronDatasetBuilder(GPTDataset, [samples, 0, 0], lambda: True, config)
    # Only the training part; with 0 samples the others would be built for one epoch.
    config.split_matrix = [config.split_matrix[0], None, None]
    train = train.build()[0]
    digests = []
    for first in range(0, min(samples, FIRST), BLOCK):
        digest = xxhash.xxh3_64()
        for i in range(first, min(samples, first + BLOCK)):
            row = train[i]
            text = numpy.append(row["tokens"].numpy(), row["labels"].numpy()[-1])
            assert text.shape == (t + 1,) and (row["tokens"][1:] == row["labels"][:-1]).all()
            digest.update(text.astype("<i8").tobytes())
        digests.append(digest.hexdigest())
    parts = getattr(train, "datasets", [train])
    built = []
    for part in parts:
        tokens = part._get_num_tokens_per_epoch()
        epochs = part._get_num_epochs(tokens)
        last = part.document_index[-len(part.indices):]
        apart = epochs > 1 and sorted(last.tolist()) == part.indices.tolist()
        built.append({"asked": part.num_samples, "samples": len(part), "epochs": epochs, "apart": bool(apart)})
    return {
        "corpora": names,
        "weights": weights,
        "split": [float(x) for x in split.split(",")],
        "seed": seed,
        "seq_len": t,
        "samples": samples,
        "built": built,
        "hashes": digests,
    }


def hashes(prefix):
    """XXH3 of .bin and .idx."""
    return [xxhash.xxh3_64_hexdigest(pathlib.Path(f"{prefix}{end}").read_bytes()) for end in (".bin", ".idx")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    tiny(out)
    empty(out)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        files = {}
        for name in CORPORA:
            corpus(folder, name)
            files[name] = hashes(folder / name)
        writer = {}
        for name, vocab in (("writer-u16", 50257), ("writer-i32", 70000)):
            plain(folder, name, vocab)
            writer[name] = hashes(folder / name)
        cases = []
        for arguments in CASES:
            cases.append(case(folder, *arguments))
            print(arguments, cases[-1]["built"], flush=True)
    lines = ",\n".join("  " + json.dumps(c) for c in cases)
    text = f'{{\n "files": {json.dumps(files)},\n "writer": {json.dumps(writer)},\n "cases": [\n{lines}\n ]\n}}\n'
    json.loads(text)
    (out / "samples.json").write_text(text)


if __name__ == "__main__":
    main()
