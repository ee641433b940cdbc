"""Ferry: a model server with TensorFlow Serving's interfaces."""

__version__ = "0.1.0"
