"""What an error of Milvus means to the caller, told by its code, without a password in it."""

import traceback
from types import SimpleNamespace

import pytest
from grpc import RpcError, StatusCode
from pymilvus.exceptions import MilvusException

from moontide.errors import Misconfigured, Transient
from moontide.stores.index import MilvusIndex
from moontide.stores.index_connection import MilvusConnection

pytestmark = pytest.mark.unit


class Refusal(RpcError):
    def __init__(self, status):
        self._status = status

    def code(self):
        return self._status


def failing(error, *, uri="http://127.0.0.1:19530", token="", call="read"):
    connection = MilvusConnection(uri, token, 1.0)
    connection._client = SimpleNamespace(close=lambda: None)

    def fail(_client):
        raise error

    with pytest.raises((Misconfigured, Transient)) as caught:
        getattr(connection, call)("search moontide_author_v1", fail)
    return caught.value, connection.generation


@pytest.mark.parametrize("call", ["read", "write"])
@pytest.mark.parametrize("text", ["author_v1: timed out", "no authority", "permission of the disk", "unauthenticated"])
def test_words_of_a_message_decide_nothing(call, text):
    error, reconnects = failing(MilvusException(code=1, message=text), call=call)
    assert type(error) is Transient and reconnects == 1


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(StatusCode.UNAUTHENTICATED),
        Refusal(StatusCode.PERMISSION_DENIED),
        MilvusException(code=StatusCode.UNAUTHENTICATED),
        MilvusException(code=1_400),
        MilvusException(code=1_401),
        MilvusException(code=65_535, compatible_code=3),
    ],
    ids=str,
)
def test_a_refusal_is_misconfigured_and_names_the_setting(refusal):
    error, reconnects = failing(refusal)
    assert type(error) is Misconfigured and "MOONTIDE_INDEX_TOKEN" in str(error) and reconnects == 0


def test_a_collection_that_is_not_there_is_misconfigured_and_keeps_the_connection():
    error, reconnects = failing(MilvusException(code=100, message="no such collection"))
    assert type(error) is Misconfigured and "backfill" in str(error) and reconnects == 0


@pytest.mark.parametrize("other", [Refusal(StatusCode.UNAVAILABLE), Refusal(None), RpcError(), MilvusException(code=2)], ids=repr)
def test_anything_else_is_transient(other):
    assert type(failing(other)[0]) is Transient


def test_what_milvus_says_is_shown_without_secrets():
    uri = "http://moon:pa%40ss@db.example:19530/name"
    said = MilvusException(code=1, message=f"cannot reach {uri} as moon:pa@ss, then as root:T0ken")
    error, _ = failing(said, uri=uri, token="root:T0ken")
    assert "http://db.example:19530 as moon:***, then as root:***" in str(error)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("ftp://moon:hidden@127.0.0.1:1", "ftp://127.0.0.1:1"),
        ("http://moon:hidden@127.0.0.1:port", "http://127.0.0.1:port"),
        ("http://moon:hid/den@127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://moon:hidden@127.0.0.1:1/name?token=hidden", "http://127.0.0.1:1"),
    ],
)
def test_an_address_that_cannot_be_dialled_is_shown_without_its_password(uri, shown):
    with pytest.raises((Misconfigured, Transient)) as caught:
        MilvusIndex(uri, timeout=0.2)
    assert shown in str(caught.value) and "hid" not in str(caught.value)
    assert "hid" not in "".join(traceback.format_exception_only(caught.value))
    assert caught.value.__suppress_context__ or "hid" not in str(caught.value.__cause__)
