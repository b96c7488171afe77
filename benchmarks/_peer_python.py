"""Python of a virtual environment that has peers beside the packages of this one; a peer that does not install is not run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def peer_python(requirements: Path, folder: Path) -> Path | None:
    """Make the environment where it is missing or of other requirements; None: they cannot be installed."""
    stamp = folder / requirements.name
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        packages = next(folder.glob("lib/python3*/site-packages"))
        ours = [p for p in sys.path if p.endswith("site-packages")]
        (packages / "peers.pth").write_text("\n".join(ours) + "\n")
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
        if subprocess.run(install, check=False).returncode:
            return None
        stamp.write_text(requirements.read_text())
    return folder / "bin" / "python"
