"""From a SavedModel on disk to something that can be called."""
