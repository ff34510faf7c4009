"""Documents: how their bytes come in, become text, chunks and vectors, and are found again."""
