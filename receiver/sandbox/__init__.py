"""A stand-in for Ximilar's asynchronous upscaling API, on loopback, for trials, the demo and tests.

It is no AI: pictures are merely resized (Pillow). It was written from the provider's page alone and imports
nothing from the rest of the package, so that one misreading of that page is not made twice. What the page
leaves open (error bodies, ordering, further states) is a guess, and said to be one where it is made.
"""
