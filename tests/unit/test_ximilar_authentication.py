"""Who may deliver."""

import hashlib
import json
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import TimestampSigner

from receiver.config import load
from receiver.core.completion import is_ref
from receiver.core.errors import AuthError
from receiver.providers.base import TICKET_LIFETIME, Proof
from receiver.providers.ximilar.authentication import Authenticator

SALT = b"upscale-receiver.ticket"
"""A part of the format: tickets that are on their way must outlive an upgrade."""

Headers = Sequence[tuple[bytes, bytes]]

TWO = Authenticator({"X-Secret": ["new", "old"], "X-Other": ["o"]})
GOOD: Headers = [(b"x-secret", b"new"), (b"x-other", b"o")]


class SignerOfAnotherTime(TimestampSigner):
    """Signs as if it were another time."""

    ahead = 0

    def get_timestamp(self) -> int:
        return int(time.time()) + self.ahead


def ticket_of(key: str, ahead: int = 0, *, salt: bytes = SALT) -> bytes:
    signer = SignerOfAnotherTime([key], salt=salt, digest_method=hashlib.sha256)
    signer.ahead = ahead
    return signer.sign(b"number")


def refused(authenticator: Authenticator, headers: Headers) -> bool:
    try:
        authenticator.admit(headers)
    except AuthError as error:
        assert error.reason == "auth.refused"  # noqa: PT017 - a helper, and every refusal has to be this one
        assert error.detail == AuthError("auth.refused").detail  # noqa: PT017 - likewise: it tells nothing
        return True
    return False


@pytest.mark.parametrize("secret", [b"new", b"old"])
def test_each_accepted_value_of_each_header_proves_the_sender(secret: bytes) -> None:
    assert TWO.admit([(b"host", b"h"), (b"x-secret", secret), (b"x-other", b"o")]) == Proof(None, None)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"x-secret", b"new")],
        [(b"x-other", b"o")],
        [(b"x-secret", b"newer"), (b"x-other", b"o")],
        [(b"x-secret", b"ne"), (b"x-other", b"o")],
        [(b"x-secret", b"NEW"), (b"x-other", b"o")],
        [(b"x-secret", b"o"), (b"x-other", b"new")],
        [(b"x-secret", b""), (b"x-other", b"o")],
        [(b"x-secret", b"new,old"), (b"x-other", b"o")],
        [(b"x-secret", b"n\xc3\xa9w"), (b"x-other", b"o")],
        [(b"x-secret", b"\xff\xfe"), (b"x-other", b"o")],
        [*GOOD, (b"x-secret", b"new")],
        [*GOOD, (b"x-secret", b"wrong")],
        [*GOOD, (b"x-other", b"")],
        [(b"x_secret", b"new"), (b"x-other", b"o")],
    ],
)
def test_a_missing_wrong_or_repeated_header_is_refused_and_the_refusal_tells_nothing(
    headers: Headers,
) -> None:
    assert refused(TWO, headers)


def test_a_value_that_was_rotated_away_is_refused() -> None:
    assert refused(Authenticator({"X-Secret": ["new"]}), [(b"x-secret", b"old")])


def test_a_sender_without_any_proof_accepts_nobody() -> None:
    assert refused(Authenticator({}), [])
    assert refused(Authenticator({"X-Secret": []}), [(b"x-secret", b"")])


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_value_beyond_ascii_is_accepted_in_both_encodings_that_clients_use(encoding: str) -> None:
    authenticator = Authenticator({"X-Secret": ["clé"]})
    authenticator.admit([(b"x-secret", "clé".encode(encoding))])
    assert refused(authenticator, [(b"x-secret", b"cle")])
    Authenticator({"X-Secret": ["klíč→"]}).admit([(b"x-secret", "klíč→".encode())])


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_no_other_bytes_are_accepted(secret: bytes, other: bytes) -> None:
    good = secret in (b"new", b"old") and other == b"o"
    assert refused(TWO, [(b"x-secret", secret), (b"x-other", other)]) is not good


def test_a_ticket_proves_the_sender_and_has_a_number_of_its_own() -> None:
    authenticator = Authenticator({}, ["key"])
    numbers = {
        authenticator.admit([(b"x-receiver-job", authenticator.issue_ticket().encode())]).ticket
        for _ in range(3)
    }
    assert len(numbers) == 3
    assert None not in numbers


def test_with_both_proofs_configured_both_are_needed() -> None:
    authenticator = Authenticator({"X-Secret": ["s"]}, ["key"])
    ticket = (b"x-receiver-job", authenticator.issue_ticket().encode())
    assert authenticator.admit([(b"x-secret", b"s"), ticket]).ticket
    assert refused(authenticator, [ticket])
    assert refused(authenticator, [(b"x-secret", b"s")])
    assert refused(authenticator, [(b"x-secret", b"s"), ticket, ticket])


def test_tickets_of_older_keys_are_accepted_and_the_first_key_signs() -> None:
    old, both, new = Authenticator({}, ["old"]), Authenticator({}, ["new", "old"]), Authenticator({}, ["new"])
    both.admit([(b"x-receiver-job", old.issue_ticket().encode())])
    new.admit([(b"x-receiver-job", both.issue_ticket().encode())])
    assert refused(new, [(b"x-receiver-job", old.issue_ticket().encode())])


def test_a_ticket_is_accepted_for_its_lifetime_and_no_longer() -> None:
    authenticator, life = Authenticator({}, ["key"]), int(TICKET_LIFETIME.total_seconds())
    assert authenticator.admit([(b"x-receiver-job", ticket_of("key", 60 - life))]).ticket == "number"
    assert refused(authenticator, [(b"x-receiver-job", ticket_of("key", -60 - life))])
    assert refused(authenticator, [(b"x-receiver-job", ticket_of("key", 3600))])


def test_a_ticket_outlives_a_clock_that_is_set_back_a_little() -> None:
    assert Authenticator({}, ["key"]).admit([(b"x-receiver-job", ticket_of("key", 60))]).ticket == "number"


@pytest.mark.parametrize(
    "forged",
    [
        b"",
        b"number",
        b"number.x",
        b"number.x.y",
        b"..",
        b"\xff.\xff.\xff",
        ticket_of("other key"),
        ticket_of("key", salt=b"another purpose"),
        b"x" + ticket_of("key"),
        ticket_of("key")[:-1],
        ticket_of("key") + b"A",
        ticket_of("key").replace(b"number", b"numbes"),
        b" " + ticket_of("key"),
    ],
    # Numbers, and not the tickets: those differ between the processes that share a run.
    ids=range(13),
)
def test_a_forged_ticket_is_refused(forged: bytes) -> None:
    assert refused(Authenticator({}, ["key"]), [(b"x-receiver-job", forged)])


@given(st.binary(max_size=60))
def test_no_bytes_are_a_ticket(value: bytes) -> None:
    assert refused(Authenticator({}, ["key"]), [(b"x-receiver-job", value)])


def test_without_a_signing_key_no_ticket_is_issued_or_asked_for() -> None:
    with pytest.raises(AuthError, match="RECEIVER_SIGNING_KEYS"):
        TWO.issue_ticket()
    assert TWO.admit([*GOOD, (b"x-receiver-job", b"whatever")]).ticket is None


@pytest.mark.parametrize("ref", [b"order 7", b"~" * 200, b" "])
def test_a_reference_comes_with_the_proof(ref: bytes) -> None:
    assert TWO.admit([*GOOD, (b"x-receiver-ref", ref)]).ref == ref.decode()


@pytest.mark.parametrize("ref", [b"", b"x" * 201, b"caf\xc3\xa9", b"a\tb", b"\x7f"])
def test_a_reference_that_breaks_the_rule_is_dropped_and_not_the_delivery(ref: bytes) -> None:
    assert TWO.admit([*GOOD, (b"x-receiver-ref", ref)]) == Proof(None, None)


def test_of_two_references_none_counts() -> None:
    assert TWO.admit([*GOOD, (b"x-receiver-ref", b"a"), (b"x-receiver-ref", b"b")]).ref is None


@pytest.mark.parametrize(
    ("value", "good"),
    [("a", True), ("~ x" * 66, True), ("", False), ("x" * 201, False), ("é", False), ("a\n", 0), (7, 0)],
)  # fmt: skip
def test_references_are_1_to_200_printable_ascii_characters(value: object, good: bool) -> None:  # noqa: FBT001 - a case
    assert is_ref(value) == good


def test_the_settings_describe_the_sender() -> None:
    authenticator = Authenticator.from_config(
        load({"RECEIVER_WEBHOOK_HEADERS": '{"X-Secret": ["a", "b"]}', "RECEIVER_SIGNING_KEYS": "new,old"})
    )
    ticket = (b"x-receiver-job", Authenticator({}, ["old"]).issue_ticket().encode())
    assert authenticator.admit([(b"x-secret", b"b"), ticket]).ticket
    assert refused(authenticator, [(b"x-secret", b"c"), ticket])


def test_a_body_is_kept_without_our_own_secrets() -> None:
    authenticator = Authenticator({"X-A": ["a-long-secret", "a-long-secret-too"], "X-B": ["short"]})
    assert (
        authenticator.redact(b'{"X-A": "a-long-secret-too", "X-B": "short"}')
        == b'{"X-A": "**********", "X-B": "short"}'
    )


@pytest.mark.parametrize("secret", ['with "quotes"', "with\\backslash", "clé-of-ours", "a/b/c/d/e/f"])
def test_a_secret_is_found_however_json_spells_it(secret: str) -> None:
    authenticator = Authenticator({"X-A": [secret]})
    for text in (json.dumps(secret), json.dumps(secret, ensure_ascii=False)):
        for spelled in (text, text.replace("/", "\\/")):
            assert authenticator.redact(b'{"X-A": %b}' % spelled.encode()) == b'{"X-A": "**********"}'


@pytest.mark.parametrize("mark", [None, "wsEF_G0XbL3oyPq1mXxo-A"])
def test_a_ticket_is_kept_without_its_signature(mark: str | None) -> None:
    authenticator = Authenticator({}, ["key"])
    ticket = authenticator.issue_ticket(mark).encode()
    kept = authenticator.redact(b'{"webhook": {"headers": {"X-Receiver-Job": "%b"}}}' % ticket)
    assert ticket.rpartition(b".")[2] not in kept
    assert (
        kept == b'{"webhook": {"headers": {"X-Receiver-Job": "%b.**********"}}}' % ticket.rpartition(b".")[0]
    )
