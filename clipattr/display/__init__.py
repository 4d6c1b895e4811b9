"""Display: figures, and how numbers and foreign text are shown to people. Computes nothing."""
