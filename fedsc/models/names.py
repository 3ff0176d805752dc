"""What a tensor is, told by its name; free of torch, so a server can import it cheaply."""


def is_buffer(name: str) -> bool:
    """Tell a batch-norm statistic from a parameter."""
    return name.endswith((".running_mean", ".running_var"))


def is_norm(name: str) -> bool:
    """Tell the tensors of a normalisation layer, parameters and statistics."""
    return ".norm." in name
