"""Models: loading any CLIP, the structure of its towers, and safe reading of weights."""
