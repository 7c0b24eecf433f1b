"""The models that the exactness tests compare with: configurations, seeds and non-trivial weights.

Sizes are odd on purpose (dim 72, ffn 200, vocab 517), so that a kernel with a tail bug cannot pass. Norm epsilons and
rope bases differ from each family's default, so that a reader which ignores the key fails.
"""

import torch
import transformers as hf

DIM, FFN, VOCAB, POSITIONS, LAYERS, HEADS = 72, 200, 517, 96, 2, 6
INIT_STD = 0.1  # five times the usual 0.02: attention is far from uniform and every tensor matters

# Documents of one batch, packed back to back: 64 tokens, among them a document of one token (no causal target).
LENGTHS = [7, 1, 13, 19, 24]
TRAIN_STEPS = 20

# Of the six rope frequencies of head_dim 12, these bounds keep one, blend one and divide four by `factor`.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 20000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def _decoder(**own):
    """Keys that the Llama-shaped families share, with one family's own on top."""
    return {
        "vocab_size": VOCAB,
        "hidden_size": DIM,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": POSITIONS,
        "initializer_range": INIT_STD,
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | own


def _rope(theta):
    return {"rope_type": "default", "rope_theta": theta}


def _gpt2():
    return hf.GPT2LMHeadModel, hf.GPT2Config(
        vocab_size=VOCAB, n_positions=POSITIONS, n_embd=DIM, n_layer=LAYERS, n_head=HEADS, n_inner=FFN,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=INIT_STD,
        layer_norm_epsilon=1e-4, bos_token_id=VOCAB - 1, eos_token_id=VOCAB - 1,
    )  # fmt: skip


def _llama():
    return hf.LlamaForCausalLM, hf.LlamaConfig(**_decoder(
        num_key_value_heads=2, rms_norm_eps=1e-5, rope_parameters=_rope(5000.0), tie_word_embeddings=False,
    ))  # fmt: skip


def _llama_tied():
    return hf.LlamaForCausalLM, hf.LlamaConfig(**_decoder(
        num_key_value_heads=HEADS, rms_norm_eps=1e-4, rope_parameters=dict(LLAMA3_ROPE), tie_word_embeddings=True,
    ))  # fmt: skip


def _qwen2():
    return hf.Qwen2ForCausalLM, hf.Qwen2Config(**_decoder(
        num_key_value_heads=2, rms_norm_eps=1e-5, rope_parameters=_rope(1e6), tie_word_embeddings=True,
    ))  # fmt: skip


def _qwen3():
    return hf.Qwen3ForCausalLM, hf.Qwen3Config(**_decoder(
        num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-4, rope_parameters=_rope(1e6), tie_word_embeddings=False,
    ))  # fmt: skip


def _bert():
    return hf.BertForMaskedLM, hf.BertConfig(
        vocab_size=VOCAB, hidden_size=DIM, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=FFN, max_position_embeddings=POSITIONS, type_vocab_size=2, hidden_act="gelu",
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=INIT_STD, layer_norm_eps=1e-4,
    )  # fmt: skip


# name -> (seed, constructor); seeds are written out so that adding a case never moves another.
CASES = {
    "gpt2": (101, _gpt2),
    "llama": (102, _llama),
    "llama-tied": (103, _llama_tied),
    "qwen2": (104, _qwen2),
    "qwen3": (105, _qwen3),
    "bert": (106, _bert),
}


def build(name):
    """The model of one case (float32, eager attention) with weights from the case's seed, and its generator."""
    seed, make = CASES[name]
    model_class, config = make()
    config._attn_implementation = "eager"
    model = model_class(config).float()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            if parameter.ndim >= 2:
                parameter.copy_(INIT_STD * noise)
            elif name.endswith(".bias"):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(1 + 0.1 * noise)  # norm gains
    return model, rng


def batches(model, rng, count):
    """`count` batches of LENGTHS: tokens and targets as i64 [count, N], -1 = no target.

    Causal: the target of a token is the next one of its own document. Masked: 20 % of the positions carry a random
    target. Tokens follow u^2, so that 20 steps have something to learn. Masked models get no token 0: it is BERT's
    pad token, whose embedding row Hugging Face keeps out of the gradient.
    """
    total = sum(LENGTHS)
    masked = model.config.model_type == "bert"
    first = 1 if masked else 0

    def draw():
        return first + (torch.rand(count, total, generator=rng) ** 2 * (VOCAB - first)).long()

    tokens = draw()
    targets = torch.full_like(tokens, -1)
    if masked:
        values = draw()
        for row in range(count):
            chosen = torch.randperm(total, generator=rng)[: round(0.2 * total)]
            targets[row, chosen] = values[row, chosen]
    else:
        targets[:, :-1] = tokens[:, 1:]
        targets[:, torch.tensor(LENGTHS).cumsum(0) - 1] = -1
    return tokens, targets


def token_types(rng):
    """Segment ids i64 [N]: each document is 0 up to a random cut and 1 from there on."""
    cuts = [int(torch.randint(0, length + 1, (1,), generator=rng)) for length in LENGTHS]
    return torch.cat([(torch.arange(n) >= cut).long() for n, cut in zip(LENGTHS, cuts)])
