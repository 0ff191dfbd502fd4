"""The upscaling services: one package each, with the parser of its completions and the client of its API."""
