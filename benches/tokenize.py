#!/usr/bin/env python3
"""`espalier corpus build` beside Hugging Face `tokenizers` on the same text, threads and vocabulary.

Both start from lines of JSON in a file and end with ids: espalier reads, parses, encodes and writes a corpus (`user`
and wall time of the whole process); the peer parses the lines before its clock starts and only encodes
(`encode_batch`, without special tokens, in batches of 1000 documents, ids fetched). In turn, each round a fresh
process, medians and their ratio. The ids of both are compared first.

    benches/tokenize.py --text data/text --espalier target/release/espalier --tokenizer gpt2 --threads 2 --rounds 5
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

PEER = r"""
import json, sys, time
from tokenizers import Tokenizer
lines = [json.loads(line)["text"] for line in open(sys.argv[1], encoding="utf-8")]
tokenizer = Tokenizer.from_file(sys.argv[2])
tokenizer.no_truncation(); tokenizer.no_padding()
encode = getattr(tokenizer, sys.argv[3])
encode(lines[:8])
start = time.perf_counter()
count = 0
for i in range(0, len(lines), 1000):
    for e in encode(lines[i:i + 1000], add_special_tokens=False):
        count += len(e.ids)
print(json.dumps({"seconds": time.perf_counter() - start, "tokens": count}))
"""

IDS = r"""
import json, sys
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[2])
tokenizer.no_truncation(); tokenizer.no_padding()
out = open(sys.argv[3], "wb")
size = int(sys.argv[4])
for line in open(sys.argv[1], encoding="utf-8"):
    for i in tokenizer.encode(json.loads(line)["text"], add_special_tokens=False).ids:
        out.write(i.to_bytes(size, "little"))
"""


def documents(folder, most):
    """Paragraph-sized documents: files cut at blank lines into pieces of about 4 kB."""
    taken = 0
    for path in sorted(pathlib.Path(folder).rglob("*.txt")):
        piece = ""
        for part in path.read_text(encoding="utf-8", errors="replace").split("\n\n"):
            piece += part + "\n\n"
            if len(piece) > 4000:
                yield piece
                taken += len(piece)
                piece = ""
        if piece.strip():
            yield piece
            taken += len(piece)
        if taken > most:
            return


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--text", required=True, help="folder of .txt files, as tools/get-text makes it")
    p.add_argument("--espalier", default="target/release/espalier")
    p.add_argument("--python", default=sys.executable, help="a Python that has `tokenizers`")
    p.add_argument("--tokenizer", default="gpt2", help="gpt2, a tokenizer.json, train-bpe:SIZE")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--mb", type=float, default=100, help="text of a round; short text is repeated")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        text, size = work / "text.jsonl", 0
        docs = list(documents(a.text, a.mb * 1e6))
        with open(text, "w", encoding="utf-8") as f:
            while size < a.mb * 1e6:
                for doc in docs:
                    f.write(json.dumps({"text": doc}, ensure_ascii=False) + "\n")
                    size += len(doc.encode())
                    if size >= a.mb * 1e6:
                        break
        def build(out, *more):
            command = [a.espalier, "corpus", "build", str(text), "--out", str(work / out), "--threads", str(a.threads), *more]
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - start
        # The definition that both use, and the same ids from both.
        build("first", "--tokenizer", a.tokenizer, "--no-eod")
        definition = str(work / "first.tokenizer.json")
        item = 4 if (work / "first.idx").read_bytes()[17] == 4 else 2
        subprocess.run([a.python, "-c", IDS, str(text), definition, str(work / "ids"), str(item)], check=True)
        if (work / "ids").read_bytes() != (work / "first.bin").read_bytes():
            sys.exit("the ids differ")
        print(f"{size / 1e6:.1f} MB in {sum(1 for _ in open(text, encoding='utf-8'))} documents, ids are equal")
        env = {**os.environ, "RAYON_NUM_THREADS": str(a.threads), "TOKENIZERS_PARALLELISM": "true"}
        ours, peers = [], {"encode_batch": [], "encode_batch_fast": []}
        for _ in range(a.rounds):
            ours.append(build("out", "--tokenizer", definition, "--no-eod"))
            for name, list_ in peers.items():
                command = [a.python, "-c", PEER, str(text), definition, name]
                result = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env)
                list_.append(json.loads(result.stdout)["seconds"])
        def rate(seconds):
            return size / 1e6 / statistics.median(seconds)
        print(f"espalier corpus build   {rate(ours):7.1f} MB/s  {min(ours):.2f} to {max(ours):.2f} s")
        for name, list_ in peers.items():
            ratio = statistics.median(list_) / statistics.median(ours)
            print(f"{name:<22}  {rate(list_):7.1f} MB/s  {min(list_):.2f} to {max(list_):.2f} s   ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
