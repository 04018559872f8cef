"""Files are read by threads that know nothing of each other."""

from __future__ import annotations

import sys
import threading
import warnings
from pathlib import Path

from isc_runtime.python_files import parse_python


def test_what_is_done_about_warnings_is_undone_by_two_threads_too(tmp_path: Path) -> None:
    file = tmp_path / "data.py"
    file.write_text("names = '\\d'\n" * 20)  # of which Python warns
    before, interval = list(warnings.filters), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda: [parse_python(file) for _ in range(300)]) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before
