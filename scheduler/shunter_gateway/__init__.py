"""The edge that clients talk to: OpenAI HTTP and gRPC, token journal, moves, engine adapters."""
