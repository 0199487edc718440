"""Triton kernels of window attention with a learned bias that all windows share.

The algorithm is FlashAttention-2 (Dao 2023, https://arxiv.org/abs/2307.08691). A program owns a tile of queries and
steps along the keys, with a running maximum and sum for each row of the softmax, so that no (N, N) matrix goes to
memory. The backward pass recomputes the weights from the log-sum-exp of each row. Differences from the paper:

- q, k and v are read from one tensor, as the linear layer writes it, and their gradients are written to one.
- A bias (A, N, N) is added to the logits. Columns of -inf are appended to it, which hide the keys of an incomplete
  last step without a comparison.
- A position attends only to positions with the same label. It always attends to itself, so no row is empty.
- The gradient of the bias is a sum over windows. A program owns a tile of it and sums every S-th window in order; the
  S partial sums are then added in order. Without atomics, every run gives the same bits.

Exponentials are powers of two, as in the hardware: exp(x) = exp2(x * LOG2E). The log-sum-exp is in base 2.

Legend: W windows, N positions of a window, A heads, D channels of a head, P channels padded to a power of two,
Q padded columns of the bias, M kinds of windows, S partial sums of the bias' gradient; m queries, n keys; OWN positions
in the tile that a program owns, STEP in each step along the other axis.
Memory, row-major: qkv (W, N, 3, A, D), y (W, N, A, D), bias (A, N, Q), labels (M, N), kinds (W,), log-sum-exp and
delta (W, A, N), partial sums of the bias' gradient (S, A, N, N). delta is the row sum of y * dy.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e30)  # the running maximum before the first visible key; finite, to avoid inf - inf


@triton.jit
def _tile_window_head(N: tl.constexpr, A: tl.constexpr, OWN: tl.constexpr):
    """Return this program's tile, window and head; the window in 64 bits, for offsets into large tensors.

    All programs are on the grid's first axis, which allows 2^31 - 1 of them; the other axes allow 65,535.
    """
    tiles: tl.constexpr = (N + OWN - 1) // OWN
    program = tl.program_id(0)
    return program % tiles, (program // (tiles * A)).to(tl.int64), program // tiles % A


@triton.jit
def _load(X, positions, PITCH: tl.constexpr, N: tl.constexpr, D: tl.constexpr, P: tl.constexpr):
    """Load the channels of some positions, zero beyond N and D."""
    channels = tl.arange(0, P)
    inside = (positions < N)[:, None] & (channels < D)[None, :]
    return tl.load(X + positions[:, None] * PITCH + channels[None, :], mask=inside, other=0.0)


@triton.jit
def _store(X, positions, x, PITCH: tl.constexpr, N: tl.constexpr, D: tl.constexpr, P: tl.constexpr):
    channels = tl.arange(0, P)
    inside = (positions < N)[:, None] & (channels < D)[None, :]
    tl.store(X + positions[:, None] * PITCH + channels[None, :], x.to(X.dtype.element_ty), mask=inside)


@triton.jit
def _load_labels(LABELS, KINDS, w, positions, N: tl.constexpr, MASKED: tl.constexpr):
    """Load the labels of some positions; those beyond N get the last label. Without a mask nothing is read."""
    labels = positions
    if MASKED:
        labels = tl.load(LABELS + tl.load(KINDS + w) * N + tl.minimum(positions, N - 1))
    return labels


@triton.jit
def _bias_pointers(BIAS, rows, columns, N: tl.constexpr, Q: tl.constexpr):
    """Return pointers to a tile of a head's bias. Rows beyond N repeat the last one: finite, and never stored."""
    return BIAS + tl.minimum(rows, N - 1)[:, None] * Q + columns[None, :]


@triton.jit
def _logits(x, y, bias_pointers, labels_x, labels_y, SCALE: tl.constexpr, MASKED: tl.constexpr):
    """Return x y^T * SCALE + bias, and -inf for pairs of different labels."""
    logits = tl.dot(x, tl.trans(y)) * SCALE + tl.load(bias_pointers).to(tl.float32)
    if MASKED:
        logits = tl.where(labels_x[:, None] == labels_y[None, :], logits, float("-inf"))
    return logits


@triton.jit
def forward_kernel(
    QKV, BIAS, LABELS, KINDS, Y, LSE,
    N: tl.constexpr, A: tl.constexpr, D: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, SCALE: tl.constexpr,
    MASKED: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Compute y and the log-sum-exp for a tile of queries of one window and head."""
    tile, w, a = _tile_window_head(N, A, OWN)
    PITCH: tl.constexpr = 3 * A * D
    QKV += w * N * PITCH + a * D
    BIAS += a * N * Q
    m = tile * OWN + tl.arange(0, OWN)
    q = _load(QKV, m, PITCH, N, D, P)
    labels_m = _load_labels(LABELS, KINDS, w, m, N, MASKED)

    maximum = tl.full([OWN], LOWEST, tl.float32)
    total = tl.zeros([OWN], tl.float32)
    y = tl.zeros([OWN, P], tl.float32)
    for start in range(0, N, STEP):
        n = start + tl.arange(0, STEP)
        k = _load(QKV + A * D, n, PITCH, N, D, P)
        v = _load(QKV + 2 * A * D, n, PITCH, N, D, P)
        labels_n = _load_labels(LABELS, KINDS, w, n, N, MASKED)
        logits = _logits(q, k, _bias_pointers(BIAS, m, n, N, Q), labels_m, labels_n, SCALE, MASKED)
        higher = tl.maximum(maximum, tl.max(logits, 1) * LOG2E)
        weights = tl.exp2(logits * LOG2E - higher[:, None])
        shrink = tl.exp2(maximum - higher)
        total = total * shrink + tl.sum(weights, 1)
        y = tl.dot(weights.to(v.dtype), v, y * shrink[:, None])
        maximum = higher

    _store(Y + w * N * A * D + a * D, m, y / total[:, None], A * D, N, D, P)
    tl.store(LSE + (w * A + a) * N + m, maximum + tl.log2(total), mask=m < N)


@triton.jit
def grad_q_kernel(
    QKV, BIAS, LABELS, KINDS, Y, LSE, DY, DELTA, DQKV,
    N: tl.constexpr, A: tl.constexpr, D: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, SCALE: tl.constexpr,
    MASKED: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of a tile of queries of one window and head, and delta for the following kernels."""
    tile, w, a = _tile_window_head(N, A, OWN)
    PITCH: tl.constexpr = 3 * A * D
    QKV += w * N * PITCH + a * D
    BIAS += a * N * Q
    m = tile * OWN + tl.arange(0, OWN)
    q = _load(QKV, m, PITCH, N, D, P)
    y = _load(Y + w * N * A * D + a * D, m, A * D, N, D, P)
    dy = _load(DY + w * N * A * D + a * D, m, A * D, N, D, P)
    labels_m = _load_labels(LABELS, KINDS, w, m, N, MASKED)
    lse = tl.load(LSE + (w * A + a) * N + m, mask=m < N, other=float("inf"))
    delta = tl.sum(y.to(tl.float32) * dy.to(tl.float32), 1)
    tl.store(DELTA + (w * A + a) * N + m, delta, mask=m < N)

    dq = tl.zeros([OWN, P], tl.float32)
    for start in range(0, N, STEP):
        n = start + tl.arange(0, STEP)
        k = _load(QKV + A * D, n, PITCH, N, D, P)
        v = _load(QKV + 2 * A * D, n, PITCH, N, D, P)
        labels_n = _load_labels(LABELS, KINDS, w, n, N, MASKED)
        logits = _logits(q, k, _bias_pointers(BIAS, m, n, N, Q), labels_m, labels_n, SCALE, MASKED)
        weights = tl.exp2(logits * LOG2E - lse[:, None])
        dlogits = weights * (tl.dot(dy, tl.trans(v)) - delta[:, None])
        dq = tl.dot(dlogits.to(k.dtype), k, dq)

    _store(DQKV + w * N * PITCH + a * D, m, dq * SCALE, PITCH, N, D, P)


@triton.jit
def grad_kv_kernel(
    QKV, BIAS_BY_KEY, LABELS, KINDS, LSE, DY, DELTA, DQKV,
    N: tl.constexpr, A: tl.constexpr, D: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, SCALE: tl.constexpr,
    MASKED: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of k and v for a tile of keys of one window and head.

    Its matrices and its bias are keys by queries: as left operands of the products they stay in registers.
    """
    tile, w, a = _tile_window_head(N, A, OWN)
    PITCH: tl.constexpr = 3 * A * D
    QKV += w * N * PITCH + a * D
    DY += w * N * A * D + a * D
    LSE += (w * A + a) * N
    DELTA += (w * A + a) * N
    BIAS_BY_KEY += a * N * Q
    n = tile * OWN + tl.arange(0, OWN)
    k = _load(QKV + A * D, n, PITCH, N, D, P)
    v = _load(QKV + 2 * A * D, n, PITCH, N, D, P)
    labels_n = _load_labels(LABELS, KINDS, w, n, N, MASKED)

    dk = tl.zeros([OWN, P], tl.float32)
    dv = tl.zeros([OWN, P], tl.float32)
    for start in range(0, N, STEP):
        m = start + tl.arange(0, STEP)
        q = _load(QKV, m, PITCH, N, D, P)
        dy = _load(DY, m, A * D, N, D, P)
        labels_m = _load_labels(LABELS, KINDS, w, m, N, MASKED)
        lse = tl.load(LSE + m, mask=m < N, other=float("inf"))
        delta = tl.load(DELTA + m, mask=m < N, other=0.0)
        logits = _logits(k, q, _bias_pointers(BIAS_BY_KEY, n, m, N, Q), labels_n, labels_m, SCALE, MASKED)
        weights = tl.exp2(logits * LOG2E - lse[None, :])
        dv = tl.dot(weights.to(dy.dtype), dy, dv)
        dlogits = weights * (tl.dot(v, tl.trans(dy)) - delta[None, :])
        dk = tl.dot(dlogits.to(q.dtype), q, dk)

    DQKV += w * N * PITCH + a * D
    _store(DQKV + A * D, n, dk * SCALE, PITCH, N, D, P)
    _store(DQKV + 2 * A * D, n, dv, PITCH, N, D, P)


@triton.jit(do_not_specialize=["W", "S"])
def grad_bias_kernel(
    QKV, BIAS, LABELS, KINDS, LSE, DY, DELTA, PARTIAL_SUMS, W, S,
    N: tl.constexpr, A: tl.constexpr, D: tl.constexpr, P: tl.constexpr, Q: tl.constexpr, SCALE: tl.constexpr,
    MASKED: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Sum the gradient of a tile of one head's bias, OWN queries by STEP keys, over every S-th window in order."""
    columns: tl.constexpr = (N + STEP - 1) // STEP
    tiles: tl.constexpr = (N + OWN - 1) // OWN * columns
    program = tl.program_id(0)
    tile, a, s = program % tiles, program // tiles % A, (program // (tiles * A)).to(tl.int64)
    PITCH: tl.constexpr = 3 * A * D
    m = tile // columns * OWN + tl.arange(0, OWN)
    n = tile % columns * STEP + tl.arange(0, STEP)
    bias_pointers = _bias_pointers(BIAS + a * N * Q, m, n, N, Q)

    total = tl.zeros([OWN, STEP], tl.float32)
    for w in range(s, W, S):
        X = QKV + w * N * PITCH + a * D
        q = _load(X, m, PITCH, N, D, P)
        k = _load(X + A * D, n, PITCH, N, D, P)
        v = _load(X + 2 * A * D, n, PITCH, N, D, P)
        dy = _load(DY + w * N * A * D + a * D, m, A * D, N, D, P)
        labels_m = _load_labels(LABELS, KINDS, w, m, N, MASKED)
        labels_n = _load_labels(LABELS, KINDS, w, n, N, MASKED)
        lse = tl.load(LSE + (w * A + a) * N + m, mask=m < N, other=float("inf"))
        delta = tl.load(DELTA + (w * A + a) * N + m, mask=m < N, other=0.0)
        logits = _logits(q, k, bias_pointers, labels_m, labels_n, SCALE, MASKED)
        weights = tl.exp2(logits * LOG2E - lse[:, None])
        total += weights * (tl.dot(dy, tl.trans(v)) - delta[:, None])

    inside = (m < N)[:, None] & (n < N)[None, :]
    tl.store(PARTIAL_SUMS + (s * A + a) * N * N + m[:, None] * N + n[None, :], total, mask=inside)
