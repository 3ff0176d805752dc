"""A process started with this on PYTHONPATH has its clock off by $CLOCK_OFF seconds, for Flower."""

import os
from datetime import timedelta

from flwr.supercore import date

_right = date.now
date.now = lambda: _right() + timedelta(seconds=float(os.environ["CLOCK_OFF"]))
