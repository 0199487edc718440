"""The number of tokenizer actors that a job starts on a cluster, and the CPUs that Ray reserves for each."""

from dataclasses import dataclass

from pipeline.cluster.session import cluster_amount, cpus_per_gpu, smallest_node_amount

CPU_ACTORS = 8  # on CPUs: one tokenizer per CPU, at most this many; each needs about 0.5 GB of memory
CPUS_PER_CPU_ACTOR = 0.5  # reserved by Ray for each of them; the rest is left for decoding


@dataclass(frozen=True)
class ActorPool:
    """The number of tokenizers: one per device of the cluster, and more if it grows.

    On a cluster without GPUs that may grow, decoding a part reserves the same share of a CPU as a tokenizer. When a
    node is lost, its tokenizers restart on the other nodes and may leave half a CPU free on each: a decoder that
    requested a whole CPU would wait forever.
    """

    min_size: int
    max_size: int
    gpus: int  # in the cluster, one per tokenizer; 0: tokenizers run on CPUs
    threads: int  # CPU threads of each tokenizer
    actor_cpus: float  # CPUs that Ray reserves for each tokenizer
    decode_cpus: float  # CPUs that Ray reserves for a part being decoded

    @classmethod
    def sized(cls, parts: int, gpus: int, may_grow: bool) -> "ActorPool":
        """The pool for `parts` parts on the current cluster with `gpus` GPUs. `may_grow`: nodes may join later."""
        cpus = max(1, cluster_amount("CPU"))
        start_size = min(parts, gpus or min(CPU_ACTORS, cpus))
        cpus_each = 1 if gpus else CPUS_PER_CPU_ACTOR
        # Decoding needs a whole CPU. If reservations for tokenizers could leave no node with one, nothing is reserved.
        can_reserve = smallest_node_amount("CPU") > 1 and start_size * cpus_each <= cpus / 2
        most = parts if gpus else min(parts, CPU_ACTORS) if can_reserve else start_size
        return cls(
            min_size=start_size,
            max_size=max(start_size, most) if may_grow else start_size,
            gpus=gpus,
            threads=cpus_per_gpu() if gpus else max(1, cpus // start_size),
            actor_cpus=cpus_each if can_reserve else 0,
            decode_cpus=CPUS_PER_CPU_ACTOR if can_reserve and may_grow and not gpus else 1,
        )
