"""``python -m serving``: features over HTTP and Arrow Flight."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from moontide.errors import Misconfigured, MoontideError
from moontide.logs import configure
from moontide.settings import load_settings
from serving.exposure import require_safe
from serving.http.metrics_files import forget
from serving.shared_memory import passing_folder
from serving.site_files import SiteFiles, find_site
from serving.supervisor import Role, Supervisor

_EPILOG = (
    "exit codes: 0 stopped by SIGTERM or SIGINT; 1 failed; 2 wrong use. "
    "Everything else comes from the environment (MOONTIDE_SERVING_*; see docs/reference/settings.md)."
)
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
#: Both names are read: prometheus_client's own, and the one that Feast sets where it is missing.
_METRICS_FOLDER: Final = ("PROMETHEUS_MULTIPROC_DIR", "PROMETHEUS_MULTIPROCESS_DIR")
_log = logging.getLogger("serving")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server; returns the exit code. Expected failures are one line, never a traceback."""
    args = _parser().parse_args(argv)
    # Until there are children to end, the end of this process must still remove its folders.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        settings = load_settings(**_given(args))
        configure(sys.stderr, settings=settings, level=args.log_level, milvus=False)
        require_safe(settings)
        # The kernel owns the threads: products of microseconds are not worth more of them.
        os.putenv("OPENBLAS_NUM_THREADS", "1")
        with (
            _bound(settings.serving_host, settings.serving_port) as listening,
            # In memory: what is counted at each request should not wait for a disk.
            passing_folder("moontide-serving-") as folder,
        ):
            _metrics_folder("feast", folder)
            files = _site(args)
            metrics = _metrics_folder("workers", folder)
            roles, drain = _roles(args, files, listening, metrics), settings.serving_drain_seconds
            # Nobody is to wait at a port that answers no more; no child that needs it is started while the service ends.
            return Supervisor(roles, drain, gone=partial(forget, metrics), ending=listening.close).run()
    except MoontideError as error:
        sys.stderr.write(f"serving: {' '.join(str(error).split())}\n")
        return 1


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Settings by flag, which come before the environment."""
    flags = {name: getattr(args, name) for name in ("host", "port", "workers", "flight_port")}
    return {f"serving_{name}": value for name, value in flags.items() if value is not None}


def _metrics_folder(name: str, within: Path) -> Path:
    """A new folder, where processes started from now on keep what they count."""
    folder = within / name
    folder.mkdir()
    for variable in _METRICS_FOLDER:
        os.putenv(variable, str(folder))
    return folder


def _site(args: argparse.Namespace) -> SiteFiles:
    """The site, its ``spaces.toml`` checked."""
    found = find_site(args.repo.absolute())
    files = SiteFiles(found.settings.model_copy(update=_given(args)), found.spaces)
    files.live()
    return files


def _roles(args: argparse.Namespace, files: SiteFiles, listening: socket.socket, metrics: Path) -> list[Role]:
    """The children of this process."""
    settings, logs = files.settings, {"settings": files.settings, "level": args.log_level, "milvus": False}
    scheme, port = "http" if settings.serving_tls_cert is None else "https", listening.getsockname()[1]
    _log.info("starting %d workers for %s://%s:%d", settings.serving_workers, scheme, settings.serving_host, port)
    work = {"files": files, "listening": listening, "metrics": metrics}
    roles = [Role(f"worker {at}", "serving.http.worker:serve", work, logs) for at in range(settings.serving_workers)]
    if settings.serving_table == "on":
        roles.append(Role("table writer", "serving.table_process:keep_tables", {"files": files}, logs))
    if settings.serving_flight_port is not None:
        roles.append(Role("flight", "serving.flight_worker:serve_flight", {"files": files}, logs))
    return roles


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving", description="Features over HTTP and Arrow Flight.", epilog=_EPILOG)
    parser.add_argument(
        "--repo", type=Path, default=Path("feature_repo"), help="Feast feature repository (default: feature_repo)"
    )
    parser.add_argument("--host", help="where to listen [env: MOONTIDE_SERVING_HOST]")
    parser.add_argument("--port", type=int, help="its port; 0 takes a free one [env: MOONTIDE_SERVING_PORT]")
    parser.add_argument("--workers", type=int, help="processes that answer [env: MOONTIDE_SERVING_WORKERS]")
    parser.add_argument("--flight-port", type=int, help="also Arrow Flight, there [env: MOONTIDE_SERVING_FLIGHT_PORT]")
    parser.add_argument("--log-level", default="INFO", choices=_LEVELS)
    return parser


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the port. Connections are refused until a worker that can answer listens: callers that know another
    server go there at once.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if bound.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise Misconfigured(
            f"expected a free port to listen on, got {host}:{port}: {error}; set MOONTIDE_SERVING_PORT (0 takes a free one) "
            "or MOONTIDE_SERVING_HOST"
        ) from error
    return bound


if __name__ == "__main__":
    raise SystemExit(main())
