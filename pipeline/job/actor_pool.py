"""How many tokenizers a job has on the cluster as it is, and what Ray sets aside for each."""

from dataclasses import dataclass

from pipeline.cluster.session import cluster_has, cpus_per_gpu, smallest_node_has

CPU_ACTORS = 8  # where there is no GPU: at most so many tokenizers of some 0.5 GB, and one per CPU
CPU_ACTOR_SHARE = 0.5  # of a CPU that Ray sets aside for one, so that decoding goes on beside them


@dataclass(frozen=True)
class ActorPool:
    """How many tokenizers there are: as many as the cluster has devices for, and more when it grows.

    On a cluster of CPUs a decoder takes as much of one as a tokenizer does. When a node is lost, its tokenizers start
    on the others and may leave half a CPU on each: a decoder that asked for a whole one would wait for ever.
    """

    min_size: int
    max_size: int
    gpus: int  # of the cluster, one for each; 0: on CPUs
    threads: int  # of each
    cpu_share: float  # CPUs that Ray sets aside for each
    decode_cpus: float  # that Ray sets aside for a part being decoded

    @classmethod
    def sized(cls, parts: int, gpus: int, may_grow: bool) -> "ActorPool":
        """For `parts` parts on the cluster as it is now."""
        cpus = max(1, cluster_has("CPU"))
        now = min(parts, gpus or min(CPU_ACTORS, cpus))
        share = 1 if gpus else CPU_ACTOR_SHARE
        # A part is decoded on a whole CPU: where the tokenizers could leave none on any node, they get none.
        room = smallest_node_has("CPU") > 1 and now * share <= cpus / 2
        most = parts if gpus else min(parts, CPU_ACTORS) if room else now
        return cls(
            min_size=now,
            max_size=max(now, most) if may_grow else now,
            gpus=gpus,
            threads=cpus_per_gpu() if gpus else max(1, cpus // now),
            cpu_share=share if room else 0,
            decode_cpus=CPU_ACTOR_SHARE if room and may_grow and not gpus else 1,
        )
