"""Fetching an image from a URL that a stranger sent: what may be asked, what may be dialled, the download."""
