"""chatrpc: a gRPC chat backend that remembers."""
