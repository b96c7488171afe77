"""``python -m serving``: features over HTTP."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from moontide.errors import Misconfigured, MoontideError
from moontide.settings import load_settings
from serving.http.worker import serve


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server; returns the exit code. Expected failures are one line, never a traceback."""
    args = _parser().parse_args(argv)
    given = {"serving_host": args.host, "serving_port": args.port, "serving_workers": args.workers}
    try:
        settings = load_settings(**{name: value for name, value in given.items() if value is not None})
        listening = _listen(settings.serving_host, settings.serving_port)
        sys.stderr.write(f"listening on http://{settings.serving_host}:{listening.getsockname()[1]}\n")
        serve(settings, args.repo, listening, None)
    except MoontideError as error:
        sys.stderr.write(f"serving: {' '.join(str(error).split())}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving", description="Features over HTTP.")
    parser.add_argument(
        "--repo", type=Path, default=Path("feature_repo"), help="Feast feature repository (default: feature_repo)"
    )
    parser.add_argument("--host", help="where to listen [env: MOONTIDE_SERVING_HOST]")
    parser.add_argument("--port", type=int, help="its port; 0 takes a free one [env: MOONTIDE_SERVING_PORT]")
    parser.add_argument("--workers", type=int, help="processes that answer [env: MOONTIDE_SERVING_WORKERS]")
    return parser


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024)
    except (OSError, OverflowError) as error:
        raise Misconfigured(
            f"expected a free port to listen on, got {host}:{port}: {error}; set MOONTIDE_SERVING_PORT"
        ) from error


if __name__ == "__main__":
    raise SystemExit(main())
