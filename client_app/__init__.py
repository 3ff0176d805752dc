"""The Flower client: trains the labs a node hosts and answers the server's questions in sums."""

from client_app.main import app

__all__ = ["app"]
