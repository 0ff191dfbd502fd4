"""A sample of each provider, by its name."""

from collections.abc import Mapping

from tests.providers.sample import Sample
from tests.providers.samples.freepik import FreepikSample
from tests.providers.samples.replicate import ReplicateSample
from tests.providers.samples.ximilar import XimilarSample

_ALL: tuple[Sample, ...] = (XimilarSample(), ReplicateSample(), FreepikSample())
SAMPLES: Mapping[str, Sample] = {sample.name: sample for sample in _ALL}
