#!/usr/bin/env python3
"""Greedy decoding here beside `generate` of Hugging Face transformers (KV cache, eager), the same random GPT-2 in both.

    cargo bench --no-run --bench decode
    benches/decode.py --python PYTHON --rounds 5 --out decode.csv

PYTHON is one with torch and transformers; it makes the model (GPT-2 124M shape, random weights) in --model if it is not there. Fresh
processes in turn, each a line of the CSV; the order turns round from round to round. A process reads prompts of --prompt random tokens,
makes --tokens from each, --repeats times after a warm-up, and reports the median: tokens per second of the wall and of CPU time, counted
from the prompts to the last token. With --clock cpu and --threads 1 the ratios are those of CPU time, for a machine that others use.
"""
import sys

sys.path.pop(0)  # tokenize.py beside this file is not Python's
import argparse, csv, glob, json, os, statistics, subprocess, time

ap = argparse.ArgumentParser()
ap.add_argument("--python", default=sys.executable)
ap.add_argument("--ours", default="", help="the program of the bench; default: the newest below target/release/deps")
ap.add_argument("--model", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../target/gpt2-random"))
ap.add_argument("--rounds", type=int, default=5)
ap.add_argument("--repeats", type=int, default=3)
ap.add_argument("--prompt", type=int, default=32)
ap.add_argument("--tokens", type=int, default=64)
ap.add_argument("--threads", type=int, default=2)
ap.add_argument("--batches", default="1,8")
ap.add_argument("--dtypes", default="f32,bf16")
ap.add_argument("--clock", choices=["wall", "cpu"], default="wall")
ap.add_argument("--out", default="decode.csv")
ap.add_argument("--peer", default="", help="make | DTYPE: be the peer's process")
ap.add_argument("--batch", type=int, default=1, help="of the peer's process")
a = ap.parse_args()
if a.clock == "cpu" and a.threads != 1:
    sys.exit("--clock cpu needs --threads 1: the CPU time of a thread that waits for another is not work")


def make():
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(a.model)


def peer():
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(a.threads)
    torch.set_num_interop_threads(1)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[a.peer]
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype).eval()
    ids = torch.randint(0, 50257, (a.batch, a.prompt), generator=torch.Generator().manual_seed(1))

    def once(n):
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            y = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, min_new_tokens=n, do_sample=False,
                               use_cache=True, pad_token_id=0)
        assert y.shape == (a.batch, a.prompt + n), y.shape
        return time.perf_counter() - wall, time.process_time() - cpu

    once(8)
    runs = sorted(once(a.tokens) for _ in range(a.repeats))
    wall, cpu = runs[len(runs) // 2]
    print(json.dumps({"tokens_s": a.batch * a.tokens / wall, "cpu_s": cpu}))


def main():
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tools/peer"))
    from noise import Meter

    target = os.environ.get("CARGO_TARGET_DIR", "target")
    built = [f for f in glob.glob(f"{target}/release/deps/decode-*") if "." not in os.path.basename(f)]
    ours = a.ours or max(built, key=os.path.getmtime)
    shape = ["--prompt", str(a.prompt), "--tokens", str(a.tokens), "--threads", str(a.threads), "--repeats", str(a.repeats),
             "--model", a.model]
    if not os.path.exists(os.path.join(a.model, "config.json")):
        subprocess.run([a.python, __file__, "--peer", "make", "--model", a.model], check=True)
    names = [(who, dtype) for dtype in a.dtypes.split(",") for who in ("transformers", "espalier")]
    new = not os.path.exists(a.out)
    rates = {}
    with open(a.out, "a", newline="") as f:
        w = csv.writer(f)
        if new:
            w.writerow("time,clock,threads,who,dtype,batch,prompt,tokens,round,tokens_s,tokens_cpu_s,foreign".split(","))
        for r in range(a.rounds):
            for batch in map(int, a.batches.split(",")):
                for who, dtype in names if r % 2 == 0 else names[::-1]:
                    start = [ours, "--dtype", dtype] if who == "espalier" else [a.python, __file__, "--peer", dtype]
                    meter = Meter()
                    p = subprocess.run(start + shape + ["--batch", str(batch)], capture_output=True, text=True)
                    foreign = meter.stop()[1]
                    lines = [line for line in p.stdout.splitlines() if line.startswith("{")]
                    if p.returncode or not lines:
                        sys.exit(f"failed: {who} {dtype}\n{p.stderr[-800:]}")
                    j = json.loads(lines[-1])
                    per_cpu = batch * a.tokens / j["cpu_s"]
                    rates.setdefault((who, dtype, batch), []).append(per_cpu if a.clock == "cpu" else j["tokens_s"])
                    row = [time.strftime("%FT%T"), a.clock, a.threads, who, dtype, batch, a.prompt, a.tokens, r,
                           round(j["tokens_s"], 2), round(per_cpu, 2), round(foreign, 2)]
                    w.writerow(row)
                    f.flush()
                    print(*row, flush=True)
    for batch in map(int, a.batches.split(",")):
        best = [max(x) for x in zip(*(rates["transformers", d, batch] for d in a.dtypes.split(",")))]
        for dtype in a.dtypes.split(","):
            own, same = rates["espalier", dtype, batch], rates["transformers", dtype, batch]
            for what, other in (f"transformers {dtype}", same), ("the faster transformers", best):
                ratios = sorted(x / y for x, y in zip(own, other))
                print(f"batch {batch}: espalier {dtype} {statistics.median(own):.1f} tokens/s, {what} {statistics.median(other):.1f}: "
                      f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


{"": main, "make": make}.get(a.peer, peer)()
