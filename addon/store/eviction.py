"""Which stored blobs go first: those with the lowest priority, by Greedy-Dual-Size-Frequency (GDSF).

A blob's priority is worked out anew whenever it is used: `age + frequency * cost / size`. The cost is what it would
take to fetch it again; divided by the size, it is what each of its bytes is good for. The age is the priority of the
last blob that had to go, so it grows as blobs come and go, and what was popular once is overtaken by what comes in.
That is all of its state, and no clock is in it.

Sources: P. Cao, S. Irani, "Cost-Aware WWW Proxy Caching Algorithms", USITS 1997 (age, size, and a cost that is so much
for each request and so much for each byte); L. Cherkasova, "Improving WWW Proxies Performance with
Greedy-Dual-Size-Frequency Caching Policy", HPL-98-69, 1998 (times the number of uses); L. Cherkasova, G. Ciardo, "Role
of Aging, Frequency, and Size in Web Cache Replacement Policies", HPCN 2001 (an exponent for that number). With a cost
that is the size, it is what Squid has as LFUDA.

Which of its weights do best for layers, and how it compares with other policies: ``./run.sh bench eviction``.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GreedyDual:
    """The weights of the policy."""

    exponent: float
    """Of the number of uses. 1: used twice is worth twice as much; 0: only the last use counts."""
    per_request: float
    """What it costs to fetch a blob, however small it is."""
    per_byte: float
    """What it costs to fetch one of its bytes."""

    def priority(self, age: float, uses: int, size: int) -> float:
        """How late a blob is to go.

        Args:
            age: the priority of the last blob that had to go, 0 before any had to.
            uses: how often it was asked for, the time when it was fetched among them.
            size: bytes.
        """
        # An empty blob takes its entry in a folder.
        size = max(size, 1)
        return float(age + uses**self.exponent * (self.per_request / size + self.per_byte))


POLICY = GreedyDual(exponent=0.5, per_request=1024 * 1024, per_byte=1)
"""What the store does.

A request counts as a MiB, about what a slow link (50 Mbit/s) brings in the time that two TLS handshakes, the registry's
redirect and the CDN's first byte take. The root keeps a tag that a whole cluster pulled at once from staying for weeks.
"""
