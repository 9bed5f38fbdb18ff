"""What `/metrics` shows: one registry per server."""

import prometheus_client as prometheus
from jax import monitoring

_MS = (5, 10, 20, 40, 60, 80, 120, 200, 400, 800, 1600)
_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 2.0)


class Metrics:
    """The server's counters, gauges and histograms; names begin with toktalk_."""

    def __init__(self):
        """A fresh registry, with the process's memory and file descriptors."""
        self.registry = registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)
        add = lambda kind, name, text, *more, **options: kind(  # noqa: E731
            f"toktalk_{name}", text, *more, registry=registry, **options
        )
        gauge, counter = prometheus.Gauge, prometheus.Counter
        histogram = prometheus.Histogram
        self.sessions = add(gauge, "sessions", "Sessions open now")
        self.opened = add(counter, "sessions_opened", "Sessions that got a slot")
        self.rejects = add(counter, "rejects", "Connections refused", ["reason"])
        self.errors = add(counter, "errors", "Errors told to clients", ["code"])
        self.chunks = add(counter, "chunks", "Chunks sent")
        self.late = add(counter, "deadline_misses", "Chunks sent late")
        self.held = add(counter, "nonfinite", "Chunks held: the solver gave no number")
        self.dropped = add(
            counter, "dropped_seconds", "Media not sent: the client did not read"
        )
        self.compiles = add(
            counter, "compiles_after_ready", "XLA compiles after ready; must stay 0"
        )
        self.chunk_ms = add(
            histogram, "chunk_ms", "A batched solve", ["steps"], buckets=_MS
        )
        self.batch_rows = add(
            histogram, "batch_rows", "Sessions in a solve", buckets=(1, 2, 4, 8, 16)
        )
        self.queue_seconds = add(
            histogram, "queue_seconds", "A due chunk's wait", buckets=_S
        )
        self.cancel_ms = add(
            histogram, "cancel_ms", "Cancel received to answer sent", buckets=_MS
        )

    def text(self):
        """The exposition format."""
        return prometheus.generate_latest(self.registry)

    def watch_compiles(self):
        """Count XLA's compiles from now on. Returns what stops it."""

        def count(name, *_, **__):
            if name.endswith("backend_compile_duration"):
                self.compiles.inc()

        monitoring.register_event_duration_secs_listener(count)
        return lambda: monitoring.unregister_event_duration_listener(count)
