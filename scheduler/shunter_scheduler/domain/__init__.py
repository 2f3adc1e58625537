"""Values of the core: what happened (events), what is (cluster), what to do (decisions)."""
