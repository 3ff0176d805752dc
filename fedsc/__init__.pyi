# What the lazy names of __init__.py are. A stub, so that modules of fedsc, which import the
# package, do not seem to import what lies above them.
from fedsc import pl as pl
from fedsc import pp as pp
from fedsc import tl as tl
from fedsc.api import run as run
from fedsc.results import Run as Run
from fedsc.results import load as load

__version__: str
__all__ = ["Run", "load", "pl", "pp", "run", "tl"]
