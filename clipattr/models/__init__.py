"""Models: loading any CLIP, the structure of its towers, and reading weights without trusting them."""
