"""What a training minimises: the port, and denoising."""
