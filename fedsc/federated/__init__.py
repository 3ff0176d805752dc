"""The mathematics labs and server share: averaging, pull, and statistics as sums."""
