import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_traces() -> Path:
    """The folder of public recorded traces, which are too large and not ours to keep here."""
    folder = os.environ.get("DUALPATH_TRACES")
    if not folder:
        pytest.skip("DUALPATH_TRACES is not set: it names the folder of real traces")
    return Path(folder)
