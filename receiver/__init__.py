"""The webhook target for Ximilar's Upscaler: fetches, verifies and archives each upscaled image."""
