"""Keys and values of running requests go from engine to engine: docs/engine-api.md, "Moves"."""
