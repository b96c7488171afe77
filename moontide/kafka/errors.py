"""What a Kafka client raises, as the three kinds of `moontide.errors`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from kafka import errors

from moontide.errors import Misconfigured, MoontideError, Transient
from moontide.kafka.net import REFUSED

T = TypeVar("T")

_REFUSED: Final = (*REFUSED, errors.SecurityDisabledError)
#: The same request would be refused again.
_WRONG: Final = (
    errors.KafkaConfigurationError,
    errors.InvalidTopicError,
    errors.UnsupportedVersionError,
    errors.UnrecognizedBrokerVersion,
    errors.UnsupportedCodecError,
    errors.InvalidSessionTimeoutError,
    errors.InvalidGroupIdError,
    errors.InconsistentGroupProtocolError,
    errors.FencedInstanceIdError,
    errors.InvalidReplicationFactorError,
    errors.InvalidPartitionsError,
    errors.InvalidConfigurationError,
    errors.PolicyViolationError,
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
)


def translated_error(error: Exception, doing: str) -> MoontideError:
    """The error of ours that stands for `error`, met while `doing` something; its message holds no data of a record."""
    name = type(error).__name__
    if isinstance(error, _REFUSED):
        return Misconfigured(
            f"Kafka, {doing}: expected to be let in, got {name}; check MOONTIDE_KAFKA_SASL_MECHANISM, _USERNAME, _PASSWORD and "
            "the broker's access rules"
        )
    if isinstance(error, _WRONG):
        return Misconfigured(f"Kafka, {doing}: expected it to be accepted, got {name}; {_explained(error)}")
    return Transient(f"Kafka, {doing}: expected an answer, got {name}; try again, and look at the brokers if it lasts")


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Errors of kafka-python and of sockets raised inside, as `Transient` or `Misconfigured`.

    Raises:
        Misconfigured: refused credentials or rights, or a request that would be refused again.
        Transient: everything else, a lost membership of the group too.
    """
    try:
        yield
    except (errors.KafkaError, OSError) as error:
        raise translated_error(error, doing) from error


def opened(doing: str, make: Callable[[], T], why: Callable[[], str | None]) -> T:
    """The client that `make` makes. `why` is asked for what is wrong with the connection where no broker answers.

    Raises:
        Misconfigured: refused credentials, or what `why` says.
        Transient: no broker answers.
    """
    try:
        return make()
    except (errors.KafkaTimeoutError, errors.KafkaConnectionError) as error:
        problem = why()
        if problem:
            raise Misconfigured(f"Kafka, {doing}: {problem}") from error
        raise translated_error(error, doing) from error
    except (errors.KafkaError, OSError) as error:
        raise translated_error(error, doing) from error


def _explained(error: Exception) -> str:
    if isinstance(error, errors.FencedInstanceIdError):
        return "another process has the same MOONTIDE_STREAM_INSTANCE; give each one of its own"
    if isinstance(error, errors.InconsistentGroupProtocolError):
        return "other members of MOONTIDE_STREAM_GROUP assign partitions otherwise; stop them or take another group"
    if isinstance(error, errors.InvalidSessionTimeoutError):
        return "MOONTIDE_STREAM_SESSION_MS is outside the broker's group.min/max.session.timeout.ms"
    if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError):
        return "raise the topic's max.message.bytes, as python -m streaming.topics says"
    return "change the settings or the broker"
