#!/usr/bin/env bash
# libvips raises nothing for a JPEG that is cut within its last rows, also with fail_on="warning".
#
# libvips 8.18.7 (pyvips 3.2.0, pyvips-binary 8.18.7), Python 3.11.7 on Linux, November 2026.
#
# pyvips documents FailOn.WARNING as "stop on anything, even warnings". A JPEG that ends early is such a warning, and one
# that is cut in the middle raises it. One that is cut within its last rows does not, with either access: all pixels are
# read without an error, and the warning is only in vips_error_buffer(). Whoever must know that an image is whole has to
# look there after the last pixel.
#
# Output seen:
#   cut at 50 %, sequential: Error
#   cut at 50 %, random: Error
#   cut at 99 %, sequential: no error, buffer: VipsJpeg: Corrupt JPEG data: premature end of data segment
#   cut at 99 %, random: no error, buffer: VipsJpeg: Corrupt JPEG data: premature end of data segment
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install pyvips==3.2.0 pyvips-binary==8.18.7
cat >"$folder/look.py" <<'PYTHON'
import pyvips

noise = pyvips.Image.gaussnoise(256, 256, mean=128, sigma=40, seed=1).cast("uchar")
jpeg = noise.jpegsave_buffer(Q=90)
for percent in (50, 99):
    cut = jpeg[: len(jpeg) * percent // 100] + b"\xff\xd9"
    for access in ("sequential", "random"):
        try:
            pyvips.Image.new_from_buffer(cut, "", access=access, fail_on="warning").avg()
            left = pyvips.ffi.string(pyvips.vips_lib.vips_error_buffer()).decode().strip()
            seen = f"no error, buffer: {left}"
        except pyvips.Error:
            seen = "Error"
        pyvips.vips_lib.vips_error_clear()
        print(f"cut at {percent} %, {access}: {seen}")
PYTHON
seen=$("$folder/venv/bin/python" "$folder/look.py")
echo "$seen"
wanted="cut at 50 %, sequential: Error
cut at 50 %, random: Error
cut at 99 %, sequential: no error, buffer: VipsJpeg: Corrupt JPEG data: premature end of data segment
cut at 99 %, random: no error, buffer: VipsJpeg: Corrupt JPEG data: premature end of data segment"
[ "$seen" = "$wanted" ]
