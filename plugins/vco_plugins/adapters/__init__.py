"""Maps from encoder features to the streams that are denoised."""
