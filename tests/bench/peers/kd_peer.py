"""The peer a user would write instead: a PyTorch knowledge-distillation step of a
Mixture-of-Experts teacher into a smaller one, in the shape of the Hugging Face Mixtral
implementation. Prints tokens per second of the whole step (teacher forward, student
forward and backward, KL + CE, AdamW).

All six losses are the engine's, with its defaults: distances by row with a floor by sequence, feature and routing at every student layer,
experts and cache at the last one, all experts on an eighth of the rows, keys before rotary embedding, relations of 8 heads.

usage: kd_peer.py [--threads N] [--dtype bf16|f32] [--steps N] [--compile] [--losses kd,hard,feature,expert,cache,routing]
"""
import argparse, math, time, torch, torch.nn as nn, torch.nn.functional as F

def rope(x, cos, sin):
    a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

class Norm(nn.Module):
    def __init__(s, d):
        super().__init__(); s.w = nn.Parameter(torch.ones(d))
    def forward(s, x):
        y = x.float(); return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * s.w

class Attn(nn.Module):
    def __init__(s, d, h, kv):
        super().__init__(); s.h, s.kv, s.hd = h, kv, d // h
        s.q = nn.Linear(d, h * s.hd, bias=False); s.k = nn.Linear(d, kv * s.hd, bias=False)
        s.v = nn.Linear(d, kv * s.hd, bias=False); s.o = nn.Linear(h * s.hd, d, bias=False)
    def forward(s, x, cos, sin):
        B, T, _ = x.shape
        q = s.q(x).view(B, T, s.h, s.hd).transpose(1, 2); k = s.k(x).view(B, T, s.kv, s.hd).transpose(1, 2)
        v = s.v(x).view(B, T, s.kv, s.hd).transpose(1, 2)
        kvc = (k, v); q, k = rope(q, cos, sin), rope(k, cos, sin)
        k = k.repeat_interleave(s.h // s.kv, 1); v = v.repeat_interleave(s.h // s.kv, 1)
        if hasattr(F, "scaled_dot_product_attention"):
            y = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), is_causal=True)
        else:
            a = (q @ k.transpose(-1, -2)) / math.sqrt(s.hd)
            a = a.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), float("-inf"))
            y = F.softmax(a.float(), -1).to(q.dtype) @ v.to(q.dtype)
        return s.o(y.transpose(1, 2).reshape(B, T, -1)), kvc

class Expert(nn.Module):
    def __init__(s, d, f):
        super().__init__(); s.g = nn.Linear(d, f, bias=False); s.u = nn.Linear(d, f, bias=False); s.d = nn.Linear(f, d, bias=False)
    def forward(s, x): return s.d(F.silu(s.g(x)) * s.u(x))

class MoE(nn.Module):
    def __init__(s, d, f, E, k):
        super().__init__(); s.E, s.k = E, k; s.r = nn.Linear(d, E, bias=False); s.e = nn.ModuleList(Expert(d, f) for _ in range(E))
    def forward(s, x, rows=None):
        B, T, D = x.shape; x = x.reshape(-1, D); lg = s.r(x); p = F.softmax(lg.float(), -1)
        w, i = p.topk(s.k, -1); w = (w / w.sum(-1, keepdim=True)).to(x.dtype); y = torch.zeros_like(x)
        outs = None if rows is None else [e(x[rows]) for e in s.e]
        for e in range(s.E):
            t, j = (i == e).nonzero(as_tuple=True)
            if t.numel():
                o = s.e[e](x[t])
                y.index_add_(0, t, (o * w[t, j, None]).to(y.dtype))
        return y.view(B, T, D), lg, outs

class Model(nn.Module):
    def __init__(s, V, d, L, h, kv, f, E, k, T):
        super().__init__(); s.emb = nn.Embedding(V, d); s.blocks = nn.ModuleList()
        for _ in range(L): s.blocks.append(nn.ModuleList([Norm(d), Attn(d, h, kv), Norm(d), MoE(d, f, E, k)]))
        s.n = Norm(d); s.head = nn.Linear(d, V, bias=False)
        hd = d // h; fr = 10000 ** (-torch.arange(0, hd, 2).float() / hd); a = torch.outer(torch.arange(T).float(), fr)
        s.register_buffer("cos", a.cos()); s.register_buffer("sin", a.sin())
    def forward(s, x, rows=None):
        T = x.shape[1]; c, n = s.cos[:T], s.sin[:T]; h = s.emb(x); feats, kvs, rts, exs = [], [], [], []
        for i, (n1, at, n2, moe) in enumerate(s.blocks):
            a, kv = at(n1(h), c, n); h = h + a; m, lg, ex = moe(n2(h), rows if i == len(s.blocks) - 1 else None); h = h + m
            feats.append(h); kvs.append(kv); rts.append(lg); exs.append(ex)
        return s.head(s.n(h)), feats, kvs, rts, exs

def distance(a, t, sequences):
    """The distance of layer losses: |a - t|^2 / max(|t|^2, 0.1 g), g the geometric mean of |t|^2 over the rows of each sequence, which are contiguous."""
    a, t = a.float().reshape(sequences, -1, a.shape[-1]), t.float().reshape(sequences, -1, t.shape[-1])
    n = t.pow(2).sum(-1); g = (n + 1e-30).log().mean(-1, keepdim=True).exp()
    return ((a - t).pow(2).sum(-1) / torch.maximum(n, 0.1 * g)).mean()

def relation(s, t, rows, r=8):
    """KL between the causal self-similarities of the rows of s and of t (B, T, width), r heads, at the sampled queries."""
    def logp(x):
        B, T, W = x.shape; h = x.float().view(B, T, r, W // r).transpose(1, 2); z = h[:, :, rows] @ h.transpose(-1, -2) / math.sqrt(W / r)
        return F.log_softmax(z.masked_fill(torch.arange(T, device=x.device)[None, :] > rows[:, None], float("-inf")), -1)
    ls, lt = logp(s), logp(t); return torch.where(lt.isinf(), 0, lt.exp() * (lt - ls)).sum(-1).mean()

ap = argparse.ArgumentParser(); ap.add_argument("--threads", type=int, default=2); ap.add_argument("--dtype", default="bf16")
ap.add_argument("--steps", type=int, default=8); ap.add_argument("--batch", type=int, default=16); ap.add_argument("--seq", type=int, default=256)
ap.add_argument("--vocab", type=int, default=4096); ap.add_argument("--compile", action="store_true"); ap.add_argument("--losses", default="kd,hard")
ap.add_argument("--device", default="cpu"); a = ap.parse_args()
torch.set_num_threads(a.threads); torch.manual_seed(0); dev = a.device; want = set(a.losses.split(","))
teacher = Model(a.vocab, 512, 6, 8, 4, 1024, 8, 2, a.seq).to(dev).eval(); student = Model(a.vocab, 256, 4, 4, 2, 512, 4, 2, a.seq).to(dev)
pairs = [(l, -(-(l + 1) * 6 // 4) - 1) for l in range(4)]
ad = nn.ModuleDict({**{f"feature{l}": nn.Linear(256, 512, bias=False) for l, _ in pairs}, "expert": nn.Linear(256, 512, bias=False),
                    "cache0": nn.Linear(128, 256, bias=False), "cache1": nn.Linear(128, 256, bias=False)}).to(dev)
for m in ad.values(): nn.init.zeros_(m.weight)
if a.dtype == "bf16": teacher = teacher.to(torch.bfloat16)
if a.compile: teacher, student = torch.compile(teacher), torch.compile(student)
opt = torch.optim.AdamW(list(student.parameters()) + list(ad.parameters()), lr=3e-4); tau = 4.0
x = torch.randint(0, a.vocab, (a.batch, a.seq + 1), device=dev); times = []
for it in range(a.steps + 2):
    t0 = time.time()
    at = torch.randperm(a.seq, device=dev)[: a.seq // 8].sort().values; rows = (torch.arange(a.batch, device=dev)[:, None] * a.seq + at).flatten() if "expert" in want else None
    with torch.no_grad(): tl, tf, tk, tr, te = teacher(x[:, :-1], rows)
    with torch.autocast(dev, dtype=torch.bfloat16, enabled=a.dtype == "bf16"):
        sl, sf, sk, sr, se = student(x[:, :-1], rows)
        s2, t2 = sl.float().flatten(0, 1), tl.float().flatten(0, 1); loss = 0
        if "kd" in want: loss = loss + 0.7 * tau**2 * F.kl_div(F.log_softmax(s2 / tau, -1), F.softmax(t2 / tau, -1), reduction="batchmean")
        if "hard" in want: loss = loss + 0.3 * F.cross_entropy(s2, x[:, 1:].flatten())
        if "feature" in want: loss = loss + 0.5 * sum(distance(ad[f"feature{l}"](sf[l]), tf[t], a.batch) for l, t in pairs) / 4
        if "expert" in want: loss = loss + 0.4 * sum(distance(ad["expert"](se[-1][i]), te[-1][i], a.batch) for i in range(4)) / 4
        if "cache" in want:
            for j in (0, 1):
                u, v = (k[-1][j].transpose(1, 2).flatten(2) for k in (sk, tk))
                loss = loss + 0.3 * (distance(ad[f"cache{j}"](u), v, a.batch) + 0.3 * relation(u, v, at))
        if "routing" in want:
            for l, t in pairs:
                p = F.softmax(tr[t].float(), -1).view(-1, 2, 4).sum(1)
                loss = loss + 0.2 / 4 * F.kl_div(F.log_softmax(sr[l].float(), -1), p, reduction="batchmean")
    opt.zero_grad(set_to_none=True); loss.backward(); nn.utils.clip_grad_norm_(student.parameters(), 1.0); opt.step()
    if dev == "cuda": torch.cuda.synchronize()
    times.append(time.time() - t0)
m = sorted(times[2:])[len(times[2:]) // 2]; import resource
print(f"torch {torch.__version__} {a.dtype} threads={a.threads} losses={a.losses}: {a.batch*a.seq/m:.0f} tokens/s  step {m*1e3:.0f} ms  peak_rss_mb {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024:.0f}")
