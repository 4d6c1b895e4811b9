"""Display: figures, and numbers and foreign text as displayed text. Computes nothing."""
