"""A lab whose processes start with this on PYTHONPATH, and which ``$LIAR`` names, lies in sums."""

import os
import sys
from importlib.machinery import PathFinder

_APP = "client_app.subjects"
_OURS = f"/labs/{os.environ.get('LIAR', '')}/" in f"{os.environ.get('FLWR_HOME', '')}/"


class Liar:
    """Finds the module that answers questions, and puts a liar in its place."""

    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path) if name == _APP else None
        if spec is not None:
            honest = spec.loader.exec_module

            def exec_module(module):
                honest(module)
                answer_of = module.answer_of
                module.answer_of = lambda *about: {
                    array: _lie(values) for array, values in answer_of(*about).items()
                }

            spec.loader.exec_module = exec_module
        return spec


def _lie(values):
    return (values * 0 - 1).astype(values.dtype)  # less than no cells, and negative squares


if _OURS:
    sys.meta_path.insert(0, Liar())
