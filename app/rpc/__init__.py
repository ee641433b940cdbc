"""The gRPC side: tensors to protos and back, the method table, and its transport."""
