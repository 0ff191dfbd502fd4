"""Submitting images to the provider: each once as far as that can be known, and recorded in the ledger."""

from receiver.submission.images import ImageLike, Item, Options, read_list
from receiver.submission.run import follow, name_of, named_again, prepare, submit, submit_all, submitting
from receiver.submission.settlement import SettleProgress, settle
from receiver.submission.submitter import PATIENCE, Fate, Outcome, Submitter

__all__ = [
    "PATIENCE",
    "Fate",
    "ImageLike",
    "Item",
    "Options",
    "Outcome",
    "SettleProgress",
    "Submitter",
    "follow",
    "name_of",
    "named_again",
    "prepare",
    "read_list",
    "settle",
    "submit",
    "submit_all",
    "submitting",
]
