"""What a receiver costs that verifies, beside what does not: `python -m tests.bench.compare`.

The receiver, a tutorial, and curl with s5cmd get the same images from Caddy, over http and over TLS, and
archive them in SeaweedFS. They take turns, and what counts are the ratios of their medians. After each run
every object is read and compared.
"""

import argparse
import contextlib
import hashlib
import itertools
import statistics
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tests.bench.contenders import CONTENDERS, Cost, Work
from tests.bench.pictures import KINDS, Kind
from tests.support.caddy import free_port
from tests.support.memory import MIB
from tests.support.processes import Program, completion
from tests.support.seaweed import Seaweed, seaweed

WARM_UP = 4
SCHEMES = ("http", "https")
QUICK = [Kind("small photographs", "JPEG", 80, 3)]


@contextlib.contextmanager
def image_host(folder: Path, images: Path, store: Seaweed) -> Iterator[dict[str, str]]:
    """Runs Caddy with the store's certificate; gives its address for each scheme."""
    addresses = {scheme: f"{scheme}://127.0.0.1:{free_port()}" for scheme in SCHEMES}
    files = f"root * {images}\n\tfile_server"
    (folder / "Caddyfile").write_text(
        "{\n\tadmin off\n\tauto_https off\n}\n"
        f"{addresses['http']} {{\n\t{files}\n}}\n"
        f"{addresses['https']} {{\n\ttls {store.folder}/tls.crt {store.folder}/tls.key\n\t{files}\n}}\n"
    )
    caddy = [f"{sysconfig.get_path('scripts')}/caddy", "run", "--adapter=caddyfile", "--config=Caddyfile"]
    with Program("caddy", caddy, folder, {"XDG_DATA_HOME": str(folder)}) as program:
        program.until(lambda: "serving initial configuration" in program.log)
        yield addresses


def archived(store: Seaweed, prefix: str) -> dict[str, str]:
    """The SHA-256 of each object, by its name without folders and suffix."""
    with contextlib.closing(store.client()) as client:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=store.bucket, Prefix=f"{prefix}/")
        keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        digests = {}
        for key in keys:
            body = client.get_object(Bucket=store.bucket, Key=key)["Body"]
            digests[PurePosixPath(key).stem] = hashlib.sha256(body.read()).hexdigest()
    assert len(digests) == len(keys), "an image is archived twice"
    return digests


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of images over one scheme: the contenders' runs."""

    kind: Kind
    scheme: str
    runs: dict[str, list[Cost]]

    def median(self, contender: str, figure: str) -> float:
        values: list[float] = [getattr(cost, figure) for cost in self.runs[contender]]
        return statistics.median(values)

    def __str__(self) -> str:
        cells = [f"{self.kind.count} of {self.kind.name}", self.scheme]
        for contender in list(CONTENDERS)[1:]:
            cells.extend(
                f"{self.median(contender, figure) / (self.median('tutorial', figure) or 1):.2f}"
                for figure in ("cpu", "wall")
            )
        cells.extend(f"{self.median(contender, 'memory') / MIB:.0f}" for contender in CONTENDERS)
        return f"| {' | '.join(cells)} |"


HEAD = """\
| images | over | receiver: CPU | time | curl + s5cmd: CPU | time \
| MiB: tutorial | receiver | curl + s5cmd |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def measure(kind: Kind, schemes: Sequence[str], rounds: int, folder: Path) -> Iterator[Row]:
    """Has the contenders take turns with images of one kind; each round has a fresh store.

    Raises:
        AssertionError: an object is missing or differs from its image.
    """
    images, names = folder / "images", [f"image-{n:04}" for n in range(kind.count + WARM_UP)]
    images.mkdir()
    digests = {}
    for number, name in enumerate(names):
        image = kind.draw(number)
        (images / f"{name}{kind.suffix}").write_bytes(image)
        digests[name] = hashlib.sha256(image).hexdigest()
    rows = [Row(kind, scheme, {contender: [] for contender in CONTENDERS}) for scheme in schemes]
    for turn in range(rounds):
        order = [*CONTENDERS][turn % len(CONTENDERS) :] + [*CONTENDERS][: turn % len(CONTENDERS)]
        with seaweed() as store, image_host(folder, images, store) as addresses:
            for row, contender in itertools.product(rows, order):
                prefix = f"{contender.split()[0]}-{row.scheme}"
                urls = {name: f"{addresses[row.scheme]}/{name}{kind.suffix}" for name in names}
                bodies = {name: completion(name, url, kind.width, kind.height) for name, url in urls.items()}
                environment = store.environment(tls=row.scheme == "https")
                with tempfile.TemporaryDirectory(dir=folder) as own:
                    work = Work(
                        bodies, urls, WARM_UP, environment, store.bucket, prefix, store.ca_bundle, Path(own)
                    )
                    cost = CONTENDERS[contender](work)
                row.runs[contender].append(cost)
                assert archived(store, prefix) == digests, f"{contender} archived other bytes"
                print(f"{kind.name} {row.scheme} {contender}: {cost}", file=sys.stderr)
    yield from rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="kinds whose name has this text")
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=SCHEMES)
    parser.add_argument("--quick", action="store_true", help="one round of three small photographs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = 1
    print(HEAD)
    for kind in QUICK if options.quick else KINDS:
        if options.only in kind.name:
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                for row in measure(kind, options.schemes, options.rounds, Path(folder)):
                    print(row, flush=True)


if __name__ == "__main__":
    main()
