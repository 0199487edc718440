"""The number of tokenizer actors that a job starts on a cluster, and the CPUs that Ray reserves for each."""

from dataclasses import dataclass

from pipeline.cluster.session import cluster_amount, cpus_per_gpu, smallest_node_amount

CPU_ACTORS = 8  # without GPUs: one tokenizer per CPU, at most this many; each takes about 0.5 GB
CPU_ACTOR_SHARE = 0.5  # CPUs that Ray reserves for each of them, so that decoding continues beside them


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
    cpu_share: float  # CPUs that Ray reserves for each tokenizer
    decode_cpus: float  # CPUs that Ray reserves for a part being decoded

    @classmethod
    def sized(cls, parts: int, gpus: int, may_grow: bool) -> "ActorPool":
        """The pool for `parts` parts on the current cluster with `gpus` GPUs. `may_grow`: nodes may join later."""
        cpus = max(1, cluster_amount("CPU"))
        now = min(parts, gpus or min(CPU_ACTORS, cpus))
        share = 1 if gpus else CPU_ACTOR_SHARE
        # Decoding needs a whole CPU: if reservations for tokenizers could leave none free on any node, none are made.
        room = smallest_node_amount("CPU") > 1 and now * share <= cpus / 2
        most = parts if gpus else min(parts, CPU_ACTORS) if room else now
        return cls(
            min_size=now,
            max_size=max(now, most) if may_grow else now,
            gpus=gpus,
            threads=cpus_per_gpu() if gpus else max(1, cpus // now),
            cpu_share=share if room else 0,
            decode_cpus=CPU_ACTOR_SHARE if room and may_grow and not gpus else 1,
        )
