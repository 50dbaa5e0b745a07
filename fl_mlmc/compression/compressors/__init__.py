"""Compressors that are not ladders, one a file; `base` says what a compressor is."""
