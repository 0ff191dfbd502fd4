"""Ximilar's stand-in, written from its page alone.

Where the page says nothing (error bodies, ordering, further states), it guesses, and a comment marks the
guess.
"""
