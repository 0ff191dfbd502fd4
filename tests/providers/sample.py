"""What the conformance suite needs of one provider; `tests/providers/samples/` has one of each."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar


class Sample(ABC):
    """One provider as its documentation shows it: settings, bodies, and a signer that is not the product's.

    Attributes:
        name: of the provider.
        settings: the environment that switches it on, with the secrets that `sign` uses.
        secrets: texts of the settings that no answer and no log may hold.
        several: whether one body can bring several outputs.
        signs_body: whether the proof is of the body, so that an altered one is refused.
        states_time: whether the proof states a time, so that an old one is refused.
        foreign: proved bodies that are no job's: kept as unread.
    """

    name: ClassVar[str]
    settings: ClassVar[Mapping[str, str]]
    secrets: ClassVar[Sequence[str]]
    several: ClassVar[bool] = True
    signs_body: ClassVar[bool] = True
    states_time: ClassVar[bool] = True
    foreign: ClassVar[Sequence[bytes]] = (b"[]", b"{}", b'"text"', b'{"id": 7}')

    @abstractmethod
    def sign(self, body: bytes, *, at: int) -> dict[str, str]:
        """Return the headers of a delivery that is sent ``at``, seconds since the epoch."""

    @abstractmethod
    def sign_as_stranger(self, body: bytes, *, at: int) -> dict[str, str]:
        """Return the same by somebody with another key."""

    @abstractmethod
    def succeeded(self, own_id: object, urls: Sequence[str]) -> bytes:
        """Return the body of a job that ended well, with these outputs."""

    @abstractmethod
    def failed(self, own_id: object) -> bytes:
        """Return the body of a job that ended badly."""

    @abstractmethod
    def running(self, own_id: object) -> bytes | None:
        """Return the body of a job that has not ended; ``None`` where the provider posts none."""
