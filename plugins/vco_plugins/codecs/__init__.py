"""Maps from images to the stream that is denoised, and back."""
