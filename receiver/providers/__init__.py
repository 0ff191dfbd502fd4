"""The upscaling services: how each proves, words and answers its completions."""
