"""Process plumbing every long-running process shares: logs, tracing, metrics endpoint, signals."""
