"""What clients talk to: the OpenAI HTTP API and gRPC, parsed into requests and rendered back."""
