"""Networks, as pure functions over dicts of tensors or as modules."""
