"""The papers' tables, reproducible: suites of runs, their rows, tables and figures."""
