"""The status page: shows whether each image is safe, and if not, why and until when."""

from receiver.dashboard.image_zip import ImageZips
from receiver.dashboard.presenters import Work
from receiver.dashboard.routes import Dashboard
from receiver.dashboard.thumbnails import THUMBNAIL_MEMORY, Thumbnails

__all__ = ["THUMBNAIL_MEMORY", "Dashboard", "ImageZips", "Thumbnails", "Work"]
