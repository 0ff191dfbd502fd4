"""The status page: shows whether each image is safe, and if not, why and until when."""
