#!/usr/bin/env python3
"""Writes the golden files beside it: tiny decoders with their losses and all gradients, in f64.

usage: generate.py [FOLDER]      (needs torch 2.x and transformers 5.x; made with 2.15 and 5.24, seed 20261124)

The reference is written out below and does not share code with the C library. Before a file is
written, the reference is compared with the class of the same name in transformers: logits, and
gradients of a random functional of them. transformers computes norms, softmaxes and rotary angles
in f32 whatever the model's dtype, hence HF_TOLERANCE.
"""
import json
import math
import os
import struct
import sys
import zlib

import torch
import torch.nn.functional as F
import transformers

SEED = 20261124
HF_TOLERANCE = 5e-6
TEMPERATURE, ALPHA, BETA = 2.0, 0.7, 0.3
BALANCE_WEIGHT, Z_WEIGHT = 0.2, 0.1
N_BATCH, N_TOKENS = 2, 7
MIN_TOPK_GAP = 1e-3  # between the last chosen and the first refused expert: f32 must choose the same

TYPES = ["llama", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe"]
QK_NORMS = ["none", "head", "row"]


def config(type, **changes):
    c = dict(type=type, name=type, vocab_size=19, hidden_size=12, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=4,
             intermediate_size=7, n_experts=4, experts_per_token=2, shared_expert_size=0, norm_topk=False,
             qkv_bias=False, qk_norm="none", tied=False, window=0, rope_theta=10000.0, norm_eps=1e-5,
             teacher_vocab=19)
    c.update(changes)
    return c


CASES = [
    config("llama", n_experts=0, experts_per_token=0, tied=True, head_dim=6, intermediate_size=17),
    config("mixtral", norm_topk=True, teacher_vocab=21),
    config("qwen2_moe", qkv_bias=True, shared_expert_size=9, hidden_size=16, intermediate_size=5, norm_eps=1e-6),
    config("qwen3_moe", norm_topk=True, qk_norm="head", n_experts=5, experts_per_token=3, head_dim=6,
           intermediate_size=5, rope_theta=1e6),
    config("mixtral", name="mixtral_sliding", norm_topk=True, window=3),
    config("qwen3_moe", name="qwen3_moe_sliding", norm_topk=True, qk_norm="head", window=2),
    config("olmoe", qk_norm="row", n_kv_heads=4, head_dim=3 + 1, hidden_size=16, intermediate_size=5),
]


# ---- weights, in the layout of lib/model/parameters.h ----

def make_weights(c, random):
    V, C, H, G, D = (c[k] for k in ("vocab_size", "hidden_size", "n_heads", "n_kv_heads", "head_dim"))
    M, E, S = c["intermediate_size"], max(c["n_experts"], 1), c["shared_expert_size"]
    w = {}

    def matrix(name, *dims, gain=1.0):
        w[name] = torch.randn(*dims, generator=random) * gain / math.sqrt(dims[-1])

    def vector(name, n, mean):
        w[name] = mean + 0.3 * torch.randn(n, generator=random)

    w["embedding.0"] = torch.randn(V, C, generator=random)
    for l in range(c["n_layers"]):
        vector(f"attention_norm.{l}", C, 1.0)
        matrix(f"qkv.{l}", (H + 2 * G) * D, C)
        if c["qkv_bias"]:
            vector(f"qkv_bias.{l}", (H + 2 * G) * D, 0.0)
        if c["qk_norm"] != "none":
            whole = c["qk_norm"] == "row"
            vector(f"q_norm.{l}", H * D if whole else D, 1.0)
            vector(f"k_norm.{l}", G * D if whole else D, 1.0)
        matrix(f"attention_out.{l}", C, H * D)
        vector(f"mlp_norm.{l}", C, 1.0)
        if c["n_experts"]:
            matrix(f"router.{l}", E, C, gain=1.5)
        matrix(f"gate_up.{l}", E, 2 * M, C)
        matrix(f"down.{l}", E, C, M)
        if S:
            matrix(f"shared_gate_up.{l}", 2 * S, C)
            matrix(f"shared_down.{l}", C, S)
            matrix(f"shared_gate.{l}", 1, C)
    vector("final_norm.0", C, 1.0)
    if not c["tied"]:
        matrix("lm_head.0", V, C, gain=2.0)
    # Rounded to f32, so that the C test starts from the same numbers.
    return {k: v.float().double().requires_grad_() for k, v in w.items()}


# ---- the reference forward pass ----

def norm(x, weight, eps):
    return weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def rotate(x, theta):
    """x (B, heads, T, D): pair (i, i + D/2) of position t turns by t * theta^(-2i/D)."""
    T, D = x.shape[-2:]
    angle = torch.arange(T).double()[:, None] * theta ** (-2.0 * torch.arange(D // 2).double() / D)
    a, b = x[..., : D // 2], x[..., D // 2:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def attention(c, w, l, y):
    B, T, _ = y.shape
    H, G, D = c["n_heads"], c["n_kv_heads"], c["head_dim"]
    qkv = y @ w[f"qkv.{l}"].T
    if c["qkv_bias"]:
        qkv = qkv + w[f"qkv_bias.{l}"]
    q, k, v = qkv.split([H * D, G * D, G * D], -1)
    if c["qk_norm"] == "row":
        q, k = (norm(x, w[f"{n}.{l}"], c["norm_eps"]) for x, n in ((q, "q_norm"), (k, "k_norm")))
    q, k, v = (x.view(B, T, -1, D) for x in (q, k, v))
    if c["qk_norm"] == "head":
        q, k = (norm(x, w[f"{n}.{l}"], c["norm_eps"]) for x, n in ((q, "q_norm"), (k, "k_norm")))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    q, k = rotate(q, c["rope_theta"]), rotate(k, c["rope_theta"])
    k, v = (x.repeat_interleave(H // G, 1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(D)
    seen = torch.ones(T, T, dtype=torch.bool).tril()
    if c["window"]:  # a row sees itself and the window - 1 rows before it
        seen = seen.triu(1 - c["window"])
    scores = scores.masked_fill(~seen, -math.inf)
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, H * D)
    return mixed @ w[f"attention_out.{l}"].T


def mlp(y, gate_up, down):
    gate, up = (y @ gate_up.T).chunk(2, -1)
    return (F.silu(gate) * up) @ down.T


def moe(c, w, l, y):
    """y (N, C). Every expert sees every row; what was not routed to it counts zero."""
    if not c["n_experts"]:
        return mlp(y, w[f"gate_up.{l}"][0], w[f"down.{l}"][0]), None
    K, E, N = c["experts_per_token"], c["n_experts"], y.shape[0]
    logits = y @ w[f"router.{l}"].T
    probs = logits.softmax(-1)
    ordered, ids = probs.sort(-1, descending=True)
    assert K == E or (ordered[:, K - 1] - ordered[:, K]).min() > MIN_TOPK_GAP, "change the seed"
    chosen = ordered[:, :K]
    if c["norm_topk"]:
        chosen = chosen / chosen.sum(-1, keepdim=True)
    share = torch.zeros(N, E).double().scatter(1, ids[:, :K], chosen)
    out = sum(share[:, e, None] * mlp(y, w[f"gate_up.{l}"][e], w[f"down.{l}"][e]) for e in range(E))
    if c["shared_expert_size"]:
        gate = torch.sigmoid(y @ w[f"shared_gate.{l}"].T)
        out = out + gate * mlp(y, w[f"shared_gate_up.{l}"], w[f"shared_down.{l}"])
    assigned = torch.zeros(N, E).double().scatter(1, ids[:, :K], 1.0).sum(0) / (N * K)
    balance = E * (assigned * probs.mean(0)).sum()  # Switch Transformer, eq. 4
    z = logits.logsumexp(-1).pow(2).mean()          # ST-MoE, eq. 5
    return out, torch.stack([balance, z])


def forward(c, w, tokens):
    """hidden (B, T, C), logits (B, T, V), and (2): balance and z summed over layers."""
    eps = c["norm_eps"]
    h = w["embedding.0"][tokens]
    router = torch.zeros(2).double()
    for l in range(c["n_layers"]):
        h = h + attention(c, w, l, norm(h, w[f"attention_norm.{l}"], eps))
        out, losses = moe(c, w, l, norm(h, w[f"mlp_norm.{l}"], eps).flatten(0, 1))
        h = h + out.view_as(h)
        router = router if losses is None else router + losses
    hidden = norm(h, w["final_norm.0"], eps)
    return hidden, hidden @ w["embedding.0" if c["tied"] else "lm_head.0"].T, router


# ---- transformers ----

def hf_model(c):
    common = dict(vocab_size=c["vocab_size"], hidden_size=c["hidden_size"], num_hidden_layers=c["n_layers"],
                  num_attention_heads=c["n_heads"], num_key_value_heads=c["n_kv_heads"], head_dim=c["head_dim"],
                  intermediate_size=c["intermediate_size"], rms_norm_eps=c["norm_eps"],
                  tie_word_embeddings=c["tied"], max_position_embeddings=64, pad_token_id=None,
                  rope_parameters={"rope_type": "default", "rope_theta": c["rope_theta"]},
                  attn_implementation="eager", experts_implementation="eager")
    experts = dict(num_experts_per_tok=c["experts_per_token"])
    qwen = dict(num_experts=c["n_experts"], moe_intermediate_size=c["intermediate_size"], norm_topk_prob=c["norm_topk"])
    t = transformers
    if c["type"] == "llama":
        model = t.LlamaForCausalLM(t.LlamaConfig(**common))
    elif c["type"] == "mixtral":
        model = t.MixtralForCausalLM(t.MixtralConfig(**common, **experts, num_local_experts=c["n_experts"],
                                                      sliding_window=c["window"] or None))
    elif c["type"] == "qwen2_moe":
        model = t.Qwen2MoeForCausalLM(t.Qwen2MoeConfig(
            **common, **experts, **qwen, shared_expert_intermediate_size=c["shared_expert_size"]))
    elif c["type"] == "qwen3_moe":
        model = t.Qwen3MoeForCausalLM(t.Qwen3MoeConfig(**common, **experts, **qwen, use_sliding_window=c["window"] > 0,
                                                       sliding_window=c["window"]))
    else:
        model = t.OlmoeForCausalLM(t.OlmoeConfig(
            **common, **experts, num_experts=c["n_experts"], norm_topk_prob=c["norm_topk"]))
    return model.double().eval()


def hf_weights(c, w):
    """Our weights under the names of transformers; differentiable."""
    q, k = c["n_heads"] * c["head_dim"], c["n_kv_heads"] * c["head_dim"]
    out = {"model.embed_tokens.weight": w["embedding.0"], "model.norm.weight": w["final_norm.0"],
           "lm_head.weight": w["embedding.0" if c["tied"] else "lm_head.0"]}
    for l in range(c["n_layers"]):
        at, mlp_at = f"model.layers.{l}.self_attn.", f"model.layers.{l}.mlp."
        out[f"model.layers.{l}.input_layernorm.weight"] = w[f"attention_norm.{l}"]
        out[f"model.layers.{l}.post_attention_layernorm.weight"] = w[f"mlp_norm.{l}"]
        for name, part in zip("qkv", w[f"qkv.{l}"].split([q, k, k])):
            out[f"{at}{name}_proj.weight"] = part
        if c["qkv_bias"]:
            for name, part in zip("qkv", w[f"qkv_bias.{l}"].split([q, k, k])):
                out[f"{at}{name}_proj.bias"] = part
        if c["qk_norm"] != "none":
            out[at + "q_norm.weight"], out[at + "k_norm.weight"] = w[f"q_norm.{l}"], w[f"k_norm.{l}"]
        out[at + "o_proj.weight"] = w[f"attention_out.{l}"]
        if c["n_experts"]:
            out[mlp_at + "gate.weight"] = w[f"router.{l}"]
            out[mlp_at + "experts.gate_up_proj"] = w[f"gate_up.{l}"]
            out[mlp_at + "experts.down_proj"] = w[f"down.{l}"]
        else:
            gate, up = w[f"gate_up.{l}"][0].chunk(2)
            out[mlp_at + "gate_proj.weight"], out[mlp_at + "up_proj.weight"] = gate, up
            out[mlp_at + "down_proj.weight"] = w[f"down.{l}"][0]
        if c["shared_expert_size"]:
            gate, up = w[f"shared_gate_up.{l}"].chunk(2)
            out[mlp_at + "shared_expert.gate_proj.weight"], out[mlp_at + "shared_expert.up_proj.weight"] = gate, up
            out[mlp_at + "shared_expert.down_proj.weight"] = w[f"shared_down.{l}"]
            out[mlp_at + "shared_expert_gate.weight"] = w[f"shared_gate.{l}"]
    return out


def compare_with_transformers(c, w, tokens, random):
    model = hf_model(c)
    theirs = hf_weights(c, w)
    assert set(theirs) == set(dict(model.named_parameters(remove_duplicate=False))), "weights of other names"
    logits = torch.func.functional_call(model, theirs, (tokens,), tie_weights=False).logits
    ours = forward(c, w, tokens)[1]
    direction = torch.randn(ours.shape, generator=random).double()
    pairs = [(ours, logits)]
    pairs += zip(*(torch.autograd.grad((x * direction).sum(), list(w.values())) for x in (ours, logits)))
    worst = max(float((a - b).norm() / b.norm()) for a, b in pairs)
    assert worst < HF_TOLERANCE, f"{c['name']}: {worst} from transformers"
    return worst


# ---- the file ----

def write(path, records):
    """As safetensors: u64 size of the header, the header as JSON padded to 8 bytes, the values. Little endian."""
    dtypes = {torch.float32: "F32", torch.float64: "F64", torch.int32: "I32", torch.int64: "I64"}
    header, values = {}, b""
    for name, value in records.items():
        data = value.detach().contiguous().numpy().tobytes()
        header[name] = {"dtype": dtypes[value.dtype], "shape": list(value.shape),
                        "data_offsets": [len(values), len(values) + len(data)]}
        values += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + values)


def config_records(c):
    fields = ["vocab_size", "hidden_size", "n_layers", "n_heads", "n_kv_heads", "head_dim", "intermediate_size",
              "n_experts", "experts_per_token", "shared_expert_size", "norm_topk", "qkv_bias", "tied"]
    integers = [TYPES.index(c["type"])] + [int(c[k]) for k in fields]
    integers += [QK_NORMS.index(c["qk_norm"]), c["window"]]
    return {"config": torch.tensor(integers), "config_real": torch.tensor([c["rope_theta"], c["norm_eps"]]).double()}


def make_case(c, folder):
    random = torch.Generator().manual_seed(SEED + zlib.crc32(c["name"].encode()) % 1000)
    w = make_weights(c, random)
    V, N = c["vocab_size"], N_BATCH * N_TOKENS
    tokens = torch.randint(0, V, (N_BATCH, N_TOKENS), generator=random)
    labels = torch.randint(0, V, (N,), generator=random)
    labels[[3, N - 1]] = -100
    teacher = (2.0 * torch.randn(N, c["teacher_vocab"], generator=random)).float()
    distance = compare_with_transformers(c, w, tokens, random)

    hidden, logits, router = forward(c, w, tokens)
    valid = labels >= 0
    student, t = logits.flatten(0, 1)[valid], teacher.double()[valid][:, :V]
    kd = TEMPERATURE**2 * F.kl_div((student / TEMPERATURE).log_softmax(-1), (t / TEMPERATURE).softmax(-1),
                                   reduction="sum")
    hard = F.cross_entropy(student, labels[valid], reduction="sum")
    L = c["n_layers"]
    total = ALPHA * kd + BETA * hard + N / L * (BALANCE_WEIGHT * router[0] + Z_WEIGHT * router[1])
    grads = torch.autograd.grad(total, list(w.values()))

    records = config_records(c)
    records |= {
        "objective": torch.tensor([TEMPERATURE, ALPHA, BETA, BALANCE_WEIGHT, Z_WEIGHT]).double(),
        "tokens": tokens.int(), "labels": labels.int(), "teacher": teacher,
        "hidden": hidden.flatten(0, 1).float(), "logits": logits.flatten(0, 1).float(),
        # kd, hard, rows: sums over valid rows; router: balance and z summed over rows and layers
        "losses": torch.stack([kd, hard, valid.sum().double()]), "router_losses": N * router,
    }
    records |= {f"weight.{k}": v.float() for k, v in w.items()}
    records |= {f"grad.{k}": g.float() for k, g in zip(w, grads)}
    path = os.path.join(folder, c["name"] + ".safetensors")
    write(path, records)
    print(f"{path}: {os.path.getsize(path)} bytes, {distance:.1e} from transformers")


if __name__ == "__main__":
    for case in CASES:
        make_case(case, sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__)))
