"""Decodes images with libvips, a strip at a time if the format allows it.

pyvips is published as source only. This module calls the compiled interface of its companion pyvips-binary,
of which there are wheels for glibc and musl, x86-64 and ARM.
"""

import contextlib
import mmap
import os
from collections.abc import Iterator
from typing import Any

_STRIP = 16
"""Rows that are decoded at a time."""
_LOADERS = (b"VipsForeignLoadJpeg", b"VipsForeignLoadPng", b"VipsForeignLoadWebp")


class VipsError(Exception):
    """What libvips says; it may name internals."""


class Libvips:
    """The library with one thread, no cache, and no loader but those of the three formats.

    It is loaded here and not on import, since it takes memory, and only the processes that decode use it.
    """

    def __init__(self) -> None:
        # Without this, warnings are written to standard error, as many as an image likes.
        os.environ["VIPS_WARNING"] = "0"
        import _libvips  # noqa: PLC0415 - as the class says

        self._ffi, self._lib = _libvips.ffi, _libvips.lib
        self._check(self._lib.vips_init(b"receiver") == 0)
        self._lib.vips_concurrency_set(1)
        self._lib.vips_cache_set_max(0)
        self._lib.vips_operation_block_set(b"VipsForeignLoad", 1)
        for loader in _LOADERS:
            self._lib.vips_operation_block_set(loader, 0)

    def decode(self, data: mmap.mmap, fmt: str, options: str, kept: int = 0) -> tuple[int, int]:
        """Decode every pixel of a file in a writable buffer. Return width and height, or raise `VipsError`.

        ``fmt`` is ``jpeg``, ``png`` or ``webp``, ``options`` are the loader's, as ``name=value,name=value``.
        Only the first ``kept`` bytes may differ from the file.
        """
        kept += -kept % mmap.PAGESIZE
        image = self._load(f"{fmt}load_source", f"access=sequential,{options}", data)
        region = self._owned(self._lib.vips_region_new(image))
        width, height = self._number(image, b"width"), self._number(image, b"height")
        size = self._ffi.new("size_t *")
        for y in range(0, height, _STRIP):
            pixels = self._lib.vips_region_fetch(region, 0, y, width, min(_STRIP, height - y), size)
            self._check(pixels != self._ffi.NULL)
            self._lib.g_free(pixels)
            # What is read is no longer held; what is needed again is mapped again.
            if (read := len(data) * y // height) > kept:
                data.madvise(mmap.MADV_DONTNEED, kept, read - kept)
        # An error within the last rows only leaves its message: libvips 8.18 paints them black.
        self._check(not self._ffi.string(self._lib.vips_error_buffer()))
        return width, height

    def thumbnail(self, data: Any, fmt: str, side: int) -> bytes:
        """Return a WebP thumbnail, upright and without metadata, at most ``side`` pixels wide and high.

        It takes no more memory than `decode`, and raises the same.
        """
        options = f"width={side},height={side},size=down"
        if fmt == "png":
            # The decoders of the other formats shrink. Of this one single pixels are taken, as a filter would
            # hold many rows; then the decoder is let go.
            image = self._load("pngload_source", "access=sequential", data)
            step = 2 * max(self._number(image, b"width"), self._number(image, b"height")) // (3 * side) or 1
            image = self._image("subsample", f"xfac={step},yfac={step}", b"input", image)
            if step > 1:
                image = self._owned(self._lib.vips_image_copy_memory(image))
            image = self._image("thumbnail_image", options, b"in", image)
        else:
            image = self._load("thumbnail_source", options, data)
        self._lib.vips_error_clear()  # what could be decoded of a damaged picture is shown
        operation = self._owned(self._lib.vips_operation_new(b"webpsave_buffer"))
        self._set(operation, b"in", image)
        with self._get(self._build(operation, "Q=75,effort=4,keep=none"), b"buffer", b"VipsBlob") as value:
            size = self._ffi.new("size_t *")
            return bytes(self._ffi.buffer(self._lib.vips_value_get_blob(value, size), size[0]))

    def _load(self, name: str, options: str, data: Any) -> Any:
        """Return the image that an operation makes of a file's bytes."""
        source = self._lib.vips_source_new_from_memory(self._ffi.from_buffer(data), len(data))
        return self._image(name, options, b"source", self._owned(source))

    def _image(self, name: str, options: str, argument: bytes, thing: Any) -> Any:
        operation = self._owned(self._lib.vips_operation_new(name.encode("ascii")))
        self._set(operation, argument, thing)
        built = self._build(operation, options)
        with self._get(built, b"out", b"VipsImage") as value:
            image = self._ffi.cast("VipsImage *", self._lib.g_value_get_object(value))
            self._lib.g_object_ref(image)
        self._lib.vips_object_unref_outputs(self._ffi.cast("VipsObject *", built))
        return self._owned(image)

    def _build(self, operation: Any, options: str) -> Any:
        as_object = self._ffi.cast("VipsObject *", operation)
        self._check(self._lib.vips_object_set_from_string(as_object, options.encode("ascii")) == 0)
        built = self._lib.vips_cache_operation_build(operation)
        if built == self._ffi.NULL:
            self._lib.vips_object_unref_outputs(as_object)
        return self._owned(built)

    def _set(self, operation: Any, name: bytes, argument: Any) -> None:
        value = self._ffi.new("GValue *")
        self._lib.g_value_init(value, self._lib.g_type_from_name(b"GObject"))
        self._lib.g_value_set_object(value, argument)
        self._lib.g_object_set_property(self._ffi.cast("GObject *", operation), name, value)
        self._lib.g_value_unset(value)

    @contextlib.contextmanager
    def _get(self, thing: Any, name: bytes, kind: bytes) -> Iterator[Any]:
        value = self._ffi.new("GValue *")
        self._lib.g_value_init(value, self._lib.g_type_from_name(kind))
        try:
            self._lib.g_object_get_property(self._ffi.cast("GObject *", thing), name, value)
            yield value
        finally:
            self._lib.g_value_unset(value)

    def _number(self, image: Any, name: bytes) -> int:
        with self._get(image, name, b"gint") as value:
            return int(self._lib.g_value_get_int(value))

    def _owned(self, thing: Any) -> Any:
        """Unreference an object when Python forgets it."""
        self._check(thing != self._ffi.NULL)
        return self._ffi.gc(thing, self._lib.g_object_unref)

    def _check(self, succeeded: bool) -> None:  # noqa: FBT001 - the only argument
        if not succeeded:
            message = self._ffi.string(self._lib.vips_error_buffer()).decode("utf-8", "replace")
            self._lib.vips_error_clear()
            raise VipsError(message)
