"""Surprise: unexpected reliances, their kinds, and causal evidence for them."""
