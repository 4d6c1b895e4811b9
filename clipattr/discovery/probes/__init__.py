"""Probes: linear classifiers on embeddings, what they rely on, and the latents that mediate it."""
