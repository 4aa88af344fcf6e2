"""Networks that denoise the streams."""
