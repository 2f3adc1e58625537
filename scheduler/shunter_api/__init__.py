"""ModelPool and RoutingPolicy as typed values: parse, validate, and the accelerator catalogue."""
