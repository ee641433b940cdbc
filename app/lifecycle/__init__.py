"""Which versions of a model there should be, which there are, and who may use them."""
