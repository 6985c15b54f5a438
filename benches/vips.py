"""libvips in process, by pyvips. Reads one tab-separated request a line:

    KIND  INPUT  OUTPUT  OPTIONS

and answers with the seconds of processor time it took, and the bytes that came out.
KIND is decode, resize (to half) or a file suffix to encode to. Files are read and written outside
the measured time.
"""

import os
import sys
import time

os.environ["VIPS_CONCURRENCY"] = "1"
import pyvips

pyvips.cache_set_max(0)
print("libvips", ".".join(str(pyvips.version(i)) for i in range(3)), flush=True)
for line in sys.stdin:
    kind, source, target, options = line.rstrip("\n").split("\t")
    with open(source, "rb") as file:
        data = file.read()
    # Processor time, since the AVIF encoder takes threads that it was not given.
    started = time.process_time()
    image = pyvips.Image.new_from_buffer(data, "", access="sequential")
    if kind == "decode":
        out = image.write_to_memory()
    elif kind == "resize":
        out = pyvips.Image.thumbnail_buffer(data, image.width // 2).write_to_memory()
    else:
        out = image.write_to_buffer(kind + options)
    took = time.process_time() - started
    with open(target, "wb") as file:
        file.write(out)
    print(took, len(out), flush=True)
