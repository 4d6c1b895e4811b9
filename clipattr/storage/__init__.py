"""Storage: files, arrays, documents and activations on disk. Nothing here knows what a model is."""
