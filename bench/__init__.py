"""Measurements; run from the root of the repository as modules: ``python -m bench.store``."""
