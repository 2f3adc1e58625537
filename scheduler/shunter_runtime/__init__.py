"""Process plumbing that every long-running process shares: logs, traces, metrics, signals, TLS."""
