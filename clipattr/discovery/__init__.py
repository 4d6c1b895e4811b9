"""Surprise: which reliances nobody would expect, of which kind, with causal evidence."""
