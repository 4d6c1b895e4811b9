"""Images: collections of pictures, where they are kept, how they are decoded, their tables and splits."""
