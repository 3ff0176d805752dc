"""The Flower server: leads a run through its phases, averages, pulls, checkpoints, scores."""

from server_app.main import app

__all__ = ["app"]
