"""Text protos that users write, to checked dataclasses."""
