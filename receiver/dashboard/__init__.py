"""The status page: is my image safe, and if not, why and until when?"""

from receiver.dashboard.presenters import Work
from receiver.dashboard.routes import Page, Sources
from receiver.dashboard.thumbnails import THUMBNAIL_MEMORY, Thumbnails

__all__ = ["THUMBNAIL_MEMORY", "Page", "Sources", "Thumbnails", "Work"]
