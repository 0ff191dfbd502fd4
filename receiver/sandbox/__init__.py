"""A stand-in for Ximilar's asynchronous upscaling API, on loopback, for trials, the demo and tests.

It resizes pictures with Pillow. It was written from the provider's page alone and imports nothing from the
rest of the package, so that a misreading of that page is not repeated. Where the page says nothing (error
bodies, ordering, further states), the sandbox guesses, and a comment marks the guess.
"""
