"""Stand-ins for the asynchronous APIs of providers, on loopback, for trials, the demo and tests.

They resize pictures with Pillow. They were written from the providers' documentation alone and import nothing
from the rest of the package, so that a misreading of that documentation is not repeated. Where it says
nothing, a stand-in guesses, and a comment marks the guess.
"""
