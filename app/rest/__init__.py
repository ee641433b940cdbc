"""The HTTP/JSON side: paths, JSON to tensors and back, and the process that serves them."""
