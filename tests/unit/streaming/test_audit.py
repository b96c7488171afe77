"""What may be an audit file."""

import json
import os

import pytest

from moontide.errors import Misconfigured
from streaming.audit import Audit
from streaming.message import Message, Result, Verdict

pytestmark = pytest.mark.unit


def test_only_a_regular_file_is_appended_to(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "file" / "below", "/dev/null"):
        with pytest.raises(Misconfigured, match=r"^MOONTIDE_STREAM_AUDIT_FILE: expected a file to append to"):
            Audit(tmp_path / path, lambda: 7)


def test_a_file_is_made_and_appended_to(tmp_path):
    path = tmp_path / "new" / "audit.jsonl"
    for event in ("a", "b"):
        audit = Audit(path, lambda: 7)
        audit.append([])
        audit.append([Result(Message("t", 0, 1, None, None), Verdict.APPLIED, event)])
        audit.close()
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    assert [line["event_id"] for line in lines] == ["a", "b"] and path.stat().st_mode & 0o077 == 0
