"""The status page: is my image safe, and if not, why and until when?"""

from receiver.page.page import Page, Sources
from receiver.page.show import Work
from receiver.page.thumbnails import THUMBNAIL_MEMORY, Thumbnails

__all__ = ["THUMBNAIL_MEMORY", "Page", "Sources", "Thumbnails", "Work"]
