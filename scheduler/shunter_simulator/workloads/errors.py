class WorkloadError(ValueError):
    """A trace or a description of load cannot be used; the message says where and why."""
