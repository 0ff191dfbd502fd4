"""A sample of each provider, by its name."""

from collections.abc import Mapping

from tests.providers.sample import Sample
from tests.providers.samples.fal import FalSample
from tests.providers.samples.freepik import FreepikSample
from tests.providers.samples.replicate import ReplicateSample
from tests.providers.samples.ximilar import XimilarSample

_ALL: tuple[Sample, ...] = (XimilarSample(), ReplicateSample(), FalSample(), FreepikSample())
SAMPLES: Mapping[str, Sample] = {sample.name: sample for sample in _ALL}
