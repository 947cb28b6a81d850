"""Benchmarks against other packages; ``dlnjax bench NAME`` runs ``dlnjax.bench.NAME.main``."""
